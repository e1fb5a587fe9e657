import { AsyncLocalStorage } from "node:async_hooks";

const storage = new AsyncLocalStorage();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function read(ms) {
  await sleep(ms);
  return storage.getStore();
}

export default {
  async fetch() {
    const seen = await Promise.all([storage.run("a", () => read(20)), storage.run("b", () => read(5))]);
    return Response.json({ seen, outside: storage.getStore() ?? null });
  },
};
