import assert, { AssertionError } from "node:assert";
import strict from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";

export default {
  async fetch() {
    const circle = { a: [1, new Map([["k", new Set([{ b: 1 }])]])], when: new Date(0) };
    circle.self = circle;
    const same = { a: [1, new Map([["k", new Set([{ b: 1 }])]])], when: new Date(0) };
    same.self = same;
    assert(true);
    assert.deepStrictEqual(circle, same);
    assert.deepEqual({ a: 1 }, { a: "1" });
    assert.notDeepStrictEqual({ a: 1 }, { a: "1" });
    assert.throws(() => JSON.parse("{"), SyntaxError);
    assert.throws(() => JSON.parse("{"), { name: "SyntaxError" });
    await assert.rejects(async () => Promise.reject(new Error("no")), /no/);
    assert.match("abc", /b/);

    const failed = [];
    const caught = async (callback) => {
      try {
        await callback();
      } catch (error) {
        failed.push(error instanceof AssertionError ? error.operator : error.message);
      }
    };
    await caught(() => assert.deepStrictEqual([1, { a: 1 }], [1, { a: 2 }]));
    await caught(() => strict.equal(1, "1"));
    await caught(() => assert.throws(() => {}));
    await caught(() => assert.rejects(Promise.resolve()));
    await caught(() => {
      try {
        assert.ok(0);
      } catch (error) {
        throw error.code === "ERR_ASSERTION" ? new Error("ok") : error;
      }
    });
    await caught(() => assert.equal(1, 2, new Error("own")));
    let message = "";
    try {
      assert.strictEqual({ a: 1 }.a, 2);
    } catch (error) {
      ({ message } = error);
    }
    return Response.json({
      passed: true,
      failed,
      message: message.includes("1 !== 2"),
      equal: [
        isDeepStrictEqual({ a: NaN }, { a: NaN }),
        isDeepStrictEqual([1], ["1"]),
        isDeepStrictEqual(new Uint8Array([1]), new Uint8Array([1])),
        isDeepStrictEqual({ a: 1 }, { a: 1, b: 2 }),
      ],
    });
  },
};
