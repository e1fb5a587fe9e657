export default {
  async fetch(request, env) {
    return Response.json({
      keys: Object.keys(env).sort(),
      GREETING: env.GREETING,
      RETRIES: env.RETRIES,
      FLAGS: env.FLAGS,
      TOKEN: env.TOKEN,
      QUOTED: env.QUOTED,
    });
  },
};
