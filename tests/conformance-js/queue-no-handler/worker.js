export default {
  async fetch(_request, env) {
    await env.Q.send(1);
    return new Response("sent");
  },
};
