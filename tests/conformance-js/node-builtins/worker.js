import { Buffer } from "node:buffer";
import { EventEmitter } from "node:events";
import path from "node:path";
import { format, inspect, promisify } from "node:util";
import assert from "node:assert";

export default {
  async fetch() {
    const emitter = new EventEmitter();
    const heard = [];
    emitter.once("said", (word) => heard.push(word));
    emitter.emit("said", "one");
    emitter.emit("said", "two");

    const later = promisify((value, done) => setTimeout(() => done(null, value), 1));
    let asserted;
    try {
      assert.strictEqual(1, 2);
    } catch (error) {
      asserted = error.name;
    }
    return Response.json({
      base64: Buffer.from("grüße").toString("base64"),
      hex: Buffer.from([1, 255]).toString("hex"),
      concat: Buffer.concat([Buffer.from("a"), Buffer.alloc(2, "b")]).toString(),
      bytes: Buffer.byteLength("ü"),
      heard,
      join: path.join("/a", "../b", "c.txt"),
      extname: path.extname("a/b.tar.gz"),
      format: format("%s is %d", "six", 6),
      inspect: inspect({ a: [1, { b: 2 }] }),
      later: await later("promised"),
      asserted,
    });
  },
};
