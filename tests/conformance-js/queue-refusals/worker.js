const fault = (work) => work().then(() => "accepted", (error) => `${error.name}: ${error.message}`);

export default {
  async fetch(_request, { Q }) {
    return Response.json({
      long: await fault(() => Q.send("x".repeat(128_000))),
      longBytes: await fault(() => Q.send(new Uint8Array(128_001), { contentType: "bytes" })),
      fits: await fault(() => Q.send("x".repeat(127_998))),
      batch: await fault(() => Q.sendBatch(Array.from({ length: 3 }, () => ({ body: "x".repeat(100_000) })))),
      many: await fault(() => Q.sendBatch(Array.from({ length: 101 }, () => ({ body: 1 })))),
      none: await fault(() => Q.sendBatch([])),
      v8: await fault(() => Q.send(1, { contentType: "v8" })),
      type: await fault(() => Q.send(1, { contentType: "xml" })),
      text: await fault(() => Q.send(1, { contentType: "text" })),
      bytes: await fault(() => Q.send("a", { contentType: "bytes" })),
      json: await fault(() => Q.send(undefined)),
      delay: await fault(() => Q.send(1, { delaySeconds: 43_201 })),
      negative: await fault(() => Q.sendBatch([{ body: 1 }], { delaySeconds: -1 })),
      noNumber: await fault(() => Q.send(1, { delaySeconds: "soon" })),
    });
  },

  async queue() {},
};
