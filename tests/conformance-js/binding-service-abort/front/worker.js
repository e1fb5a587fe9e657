export default {
  async fetch(request, env) {
    const name = await (new URL(request.url).pathname === "/reading" ? reading(env) : waiting(env));
    // Long enough for the other worker to notice, while this request is still under way.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    console.log(`aborted with ${name}`);
    return new Response(name);
  },
};

async function waiting(env) {
  try {
    await env.BACK.fetch("http://back/whole", { signal: AbortSignal.timeout(200) });
    return "nothing";
  } catch (error) {
    return error.name;
  }
}

async function reading(env) {
  const controller = new AbortController();
  const response = await env.BACK.fetch("http://back/stream", { signal: controller.signal });
  const reader = response.body.getReader();
  await reader.read();
  controller.abort();
  try {
    while (!(await reader.read()).done);
    return "nothing";
  } catch (error) {
    return error.name;
  }
}
