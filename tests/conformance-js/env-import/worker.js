import { env } from "cloudflare:workers";

const greeting = env.GREETING;

export default {
  async fetch(request, given) {
    return Response.json({ greeting, same: given.GREETING === env.GREETING });
  },
};
