import { WorkerEntrypoint } from "cloudflare:workers";

export default class extends WorkerEntrypoint {
  async queue(batch) {
    console.log(`${this.env.NAME} got ${JSON.stringify(batch.messages[0].body)} of ${batch.queue}`);
  }
}
