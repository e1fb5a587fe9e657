import { WorkerEntrypoint } from "cloudflare:workers";

interface Env {
  GREETING: string;
}

export default class extends WorkerEntrypoint<Env> {
  async fetch(request: Request): Promise<Response> {
    this.ctx.waitUntil(Promise.resolve().then(() => console.log("waited for")));
    return Response.json({ greeting: this.env.GREETING, path: new URL(request.url).pathname });
  }
}
