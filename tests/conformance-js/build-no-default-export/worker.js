export async function fetch() {
  return new Response("not a handler");
}
