export default {
  async fetch(_request, env) {
    await env.JOBS.send({ job: 1 });
    return new Response("sent");
  },
};
