export default {
  async fetch() {
    return Response.json({ greeting: process.env.GREETING, token: process.env.TOKEN });
  },
};
