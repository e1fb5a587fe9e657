import path from "path";

export default {
  async fetch() {
    return Response.json({
      buffer: Buffer.from("YQ==", "base64").toString("utf8"),
      isBytes: Buffer.from("a") instanceof Uint8Array,
      process: typeof process.env,
      nextTick: await new Promise((resolve) => process.nextTick(resolve, "ticked")),
      global: global === globalThis,
      bare: path.basename("/a/b.js"),
      immediate: await new Promise((resolve) => setImmediate(resolve, "soon")),
    });
  },
};
