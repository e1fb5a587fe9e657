// The runtime, as a component that Node runs, with a host of plain objects behind it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { prepare, startServer } from "./harness.mjs";

let server;
let runtime;
let instance;

const configuration = {
  bindings: {
    AI: { type: "ai" },
    GREETING: { type: "text", value: "hi" },
    FLAGS: { type: "json", value: { on: true } },
    ASSETS: { type: "fetcher" },
    SVC: { type: "fetcher" },
  },
  flags: [],
};

before(async () => {
  server = await startServer();
  runtime = await prepare(server.url);
  const source = await readFile(new URL("worker.mjs", import.meta.url), "utf8");
  instance = await runtime.instance();
  await instance.start(
    `(async () => {\nconst INTERNAL = ${JSON.stringify(server.url)};\n${source}\nreturn { default: worker };\n})()`,
    configuration,
  );
});

after(async () => {
  await runtime?.remove();
  await server?.close();
});

/** What a request to the worker is answered, with nothing in the log but what the test then looks at. */
async function get(path, options) {
  instance.logs = [];
  instance.flows = ["more"];
  instance.holds = true;
  await fetch(`${server.url}/reset`);
  const answer = await instance.handle(path, options);
  assert.equal(instance.answers.length, 0, "one answer");
  return answer;
}

async function json(path, options) {
  const answer = await get(path, options);
  assert.ok(!answer.failed, JSON.stringify(instance.logs));
  return JSON.parse(answer.text);
}

const seen = async () => (await fetch(`${server.url}/seen`)).json();
const lines = () => instance.logs.map(([level, text]) => `${level}: ${text}`);

async function fails(path, expected, options) {
  const answer = await get(path, options);
  assert.equal(answer.end, "fail");
  assert.match(instance.logs.map(([, text]) => text).join("\n"), expected);
  assert.equal(instance.logs[0][0], "error");
}

test("hello is one call", async () => {
  const { status, headers, text, end } = await get("/");
  assert.deepEqual(
    [status, headers, text, end],
    [200, [["content-type", "text/plain;charset=UTF-8"]], "hello", "whole"],
  );
});

test("an instance is used again, and its globals stay", async () => {
  const first = Number((await get("/count")).text);
  assert.equal(Number((await get("/count")).text), first + 1);
});

test("the request", async () => {
  const body = JSON.stringify({ a: [1, "é"] });
  assert.deepEqual(await json("/echo", { method: "POST", body }), { a: [1, "é"] });
  assert.deepEqual(await json("/buffer-body", { method: "POST", body }), [true, 14]);
  const headers = { host: "worker.test", "x-a": "1", connection: "close" };
  const request = await json("/request?q=1", { headers });
  assert.deepEqual(request, {
    method: "GET",
    url: "http://worker.test/request?q=1",
    headers: [
      ["connection", "close"],
      ["host", "worker.test"],
      ["x-a", "1"],
    ],
    host: "worker.test",
    body: true,
  });
  await fails("/frozen", /TypeError: Can't modify immutable headers/);
  await fails("/twice", /TypeError: Body has already been used/, { method: "POST", body: "x" });
  const form = { method: "POST", body: "a=1&b=x+y", headers: { "content-type": "application/x-www-form-urlencoded" } };
  assert.deepEqual(await json("/form", form), [
    ["a", "1"],
    ["b", "x y"],
  ]);
});

test("a body that is still arriving is read when it is needed", async () => {
  const post = { method: "POST", more: true };
  assert.equal((await get("/text-body", post)).text, "PIECE ONE, PIECE TWO");
  const forwarded = await get("/forward-body", post);
  assert.deepEqual([forwarded.text, forwarded.end], ["piece one, piece two", "end"]);
  await get("/", post);
  assert.deepEqual(await seen(), []);
});

test("headers and statuses of responses", async () => {
  const cookies = await get("/cookies");
  assert.equal(cookies.status, 201);
  assert.deepEqual(cookies.headers, [
    ["set-cookie", "a=1"],
    ["set-cookie", "b=2"],
    ["x-a", "é"],
  ]);
  assert.deepEqual((await get("/plain-headers")).headers, [
    ["x-upper", "v"],
    ["content-type", "text/css"],
  ]);
  await fails("/bad-header", /TypeError.*header value/);
  const none = await get("/none");
  assert.deepEqual([none.status, none.text, none.end], [204, "", "whole"]);
  await fails("/null-with-body", /null body status/);
  await fails("/bad-status", /RangeError.*200 to 599/);
  const redirect = await get("/redirect");
  assert.deepEqual([redirect.status, redirect.headers], [301, [["location", "http://a.test/b"]]]);
  const copy = await get("/copy");
  assert.deepEqual(
    [copy.status, copy.text, copy.headers],
    [
      418,
      "a",
      [
        ["x-a", "1"],
        ["content-type", "text/plain;charset=UTF-8"],
      ],
    ],
  );
  assert.equal((await get("/unknown")).status, 404);
});

test("HEAD has a length and no body", async () => {
  const known = await get("/", { method: "HEAD" });
  assert.deepEqual(
    [known.text, known.headers.find(([name]) => name === "content-length")],
    ["", ["content-length", "5"]],
  );
  const streamed = await get("/endless", { method: "HEAD" });
  assert.deepEqual([streamed.text, streamed.end], ["", "whole"]);
  assert.match(lines()[0], /cancelled/);
});

test("responses are cloned, reread and told apart", async () => {
  assert.deepEqual(await json("/clone"), ["twice", "twice", "st", "st", "plain", "plain"]);
  assert.equal((await get("/after-body")).text, "kept");
  await fails("/used", /Body has already been used/);
  assert.deepEqual(await json("/instances"), [true, true, true, "Response", "[object Response]"]);
});

test("streams are pumped", async () => {
  const { pieces, end, headers } = await get("/stream");
  assert.deepEqual(
    [pieces.map(String), end, headers],
    [["111,110,101", "116,119,111"], "end", [["content-type", "text/x"]]],
  );
  assert.equal((await get("/slow-stream")).text, "1;2;3;");
  assert.equal((await get("/encoder-stream")).text, "é");
  assert.equal((await get("/identity")).text, "abc");
  assert.deepEqual(await json("/iterate"), ["a", "é"]);
});

test("a full pipe is waited for, a closed one ends the stream", async () => {
  await get("/");
  instance.flows = ["wait", "more", "closed"];
  instance.logs = [];
  const answer = await instance.handle("/endless");
  instance.answers = [];
  assert.deepEqual([answer.text, answer.end], ["xxx", ""]);
  assert.deepEqual(
    (await seen()).map(({ url }) => url),
    ["/drain"],
  );
  assert.match(lines()[0], /cancelled Error: The client has gone away/);
});

test("a stream that breaks is broken off", async () => {
  const broken = await get("/broken-stream");
  assert.deepEqual([broken.text, broken.end], ["x", "abort"]);
  assert.match(lines()[0], /error: Uncaught \(in response body\) Error: stream broke\n.*worker\.js:\d+/);
  assert.equal((await get("/text-stream")).end, "abort");
  assert.match(lines()[0], /TypeError: This ReadableStream did not return bytes/);
});

test("exceptions are logged with their stack and end the request, not the instance", async () => {
  await fails("/throw", /^Uncaught Error: thrown\n    at .*worker\.js:\d+:\d+\)[^]*\[cause\]: \[TypeError: why/);
  await fails("/throw-text", /Uncaught 'a text'/);
  await fails("/throw-hostile", /Uncaught an exception that cannot be shown/);
  await fails("/throw-null", /Uncaught null/);
  await fails("/reject", /RangeError: rejected/);
  await fails("/nothing", /TypeError: Incorrect type for Promise: the Promise did not resolve to 'Response'/);
  assert.equal((await get("/")).text, "hello");
});

test("what happens beside the answer", async () => {
  assert.equal((await get("/wait-until")).text, "done");
  assert.match(lines()[0], /error: Uncaught \(in waitUntil\) Error: in the background/);
  assert.equal(lines()[1], "info: waited");
  assert.equal((await get("/timer-throws")).text, "alive");
  assert.match(lines().join("\n"), /in timer\) Error: in a microtask[^]*in timer\) Error: in a timer/);
  assert.equal((await get("/unhandled")).text, "alive");
});

test("console writes what a reader can read", async () => {
  await get("/log");
  const log = lines();
  assert.equal(log[0], "info: text 1 true null undefined 10n Symbol(s) -0");
  assert.equal(log[1], "info: { a: [ 1, 'two', { b: [Object] } ], 'odd key': 1970-01-01T00:00:00.000Z }");
  assert.equal(log[2], "warn: { name: 'c', self: [Circular] } Map(1) { 'k' => 1 } Set(2) { 1, 2 }");
  assert.match(log[3], /^error: Error: logged\n    at \S+ \(worker\.js:\d+:\d+\)/);
  assert.equal(log[4], `debug: he has 3 of 4 {"a":1} [ 'x' ] % rest more`);
  assert.equal(
    log[5],
    "info: Point { x: 1 } [class Point] [Function (anonymous)] Uint8Array(3) [ 1, 2, 3 ] ArrayBuffer { byteLength: 4 } /x/g [ <empty>, 1 ]",
  );
  assert.match(log[6], /^info: \[Object: null prototype\] \{\} Headers \{ a: 'b' \} Response \{[^]*status: 404/);
  assert.ok(log[7].length < 10_200 && log[7].includes("more characters"));
  assert.equal(log[8], "error: Assertion failed: sums");
  assert.deepEqual(log.slice(9, 11), ["info: outer", "info:   inner\n  lines"]);
  assert.match(log[11], /^debug: Trace: here\n    at .*worker\.js/);
});

test("env holds what is granted, and says once what is not", async () => {
  const env = await json("/env");
  assert.deepEqual(env, {
    GREETING: "hi",
    flags: true,
    keys: Object.keys(configuration.bindings),
    has: true,
    not: false,
    json: Object.keys(configuration.bindings),
    own: true,
    ai: "undefined",
  });
  assert.equal(lines().length, 2);
  assert.match(lines()[0], /^warn: env\.MISSING is undefined[^]*\[vars\]\nMISSING = "…"$/);
  const other = await runtime.instance();
  await other.start(`(async () => ({ default: { fetch(_, env) { return new Response(typeof env.AI); } } }))()`);
  assert.equal((await other.handle("/")).text, "undefined");
  assert.match(other.logs[0][1], /\[ai\]\nbinding = "AI"$/);
});

test("env.AI.run gives JSON", async () => {
  assert.deepEqual(await json("/ai"), {
    response: "hi",
    got: { inputs: { prompt: "x" }, options: { gateway: { id: "g" } } },
  });
  const [{ url, headers }] = await seen();
  assert.equal(url, "/binding/AI/run?version=3");
  assert.deepEqual(
    [headers["cf-consn-model-id"], headers["content-type"], headers["x-session-affinity"]],
    ["json", "application/json", "s"],
  );
  assert.deepEqual(
    (await json("/ai-parallel")).map(({ got }) => got.inputs.prompt),
    ["x", "y"],
  );
  const [wire, id, log] = await json("/ai-wire");
  assert.deepEqual([wire.model, wire.body, id, log], ["p:m", '{"inputs":{},"options":{}}', "req-1", null]);
  assert.deepEqual(await json("/ai-models"), ["/binding/AI/models?task=Text+Generation&page=2"]);
});

test("a stream that is only passed on stays with the host", async () => {
  const answer = await get("/ai-stream");
  assert.deepEqual([answer.held, answer.end, answer.headers], [1, "held", [["content-type", "text/event-stream"]]]);
  assert.deepEqual(
    (await seen()).map(({ url }) => url),
    ["/binding/AI/run?version=3"],
  );
  const raw = await get("/ai-raw-stream");
  assert.equal(raw.held, 1);
  assert.ok(!raw.headers.some(([name]) => name === "x-held"));
  await get("/");
  instance.holds = false;
  const pumped = await instance.handle("/ai-stream");
  instance.answers = [];
  assert.deepEqual([pumped.text, pumped.end], ["data: one\n\ndata: two\n\ndata: [DONE]\n\n", "end"]);
});

test("a stream that is read comes from the host", async () => {
  assert.equal((await get("/ai-read")).text, "data: one||data: two||data: [DONE]||");
  assert.equal((await get("/ai-iterate")).text, "data: one\n\ndata: two\n\ndata: [DONE]\n\n");
  const piped = await get("/ai-piped");
  assert.deepEqual([piped.text.length, piped.end], [36, "end"]);
  assert.deepEqual(
    (await json("/ai-tee")).map((text) => text.length),
    [36, 36],
  );
  assert.equal((await get("/ai-bytes")).text, "PNGDATA");
  await get("/ai-cancel");
  assert.deepEqual((await seen()).map(({ method, url }) => `${method} ${url}`).slice(1), ["DELETE /held/1"]);
});

test("errors of the engine", async () => {
  const [error, text, aborted, before, stream, markdown, gateway] = await json("/ai-errors");
  assert.deepEqual(error, { name: "AiError", message: "5007: No such model nope or task", dom: false });
  assert.deepEqual(text, { name: "InferenceUpstreamError", message: "bad gateway", dom: false });
  for (const abort of [aborted, before, stream]) assert.deepEqual([abort.name, abort.dom], ["AbortError", true]);
  assert.match(markdown.message, /toMarkdown\(\) is not supported/);
  assert.match(gateway.message, /takes the id of a gateway/);
  assert.ok((await seen()).some(({ method, url }) => method === "DELETE" && url === "/held/1"));
  const [isResponse, status, body, held, streamed] = await json("/ai-raw");
  assert.deepEqual([isResponse, status, body.internalCode, held, streamed.length], [true, 400, 5007, false, 36]);
});

test("binary inputs", async () => {
  const options = { tags: ["t"] };
  const query = (inputs) => JSON.stringify({ inputs, options });
  assert.deepEqual(await json("/ai-binary"), [
    { inputs: query({ language: "en" }), property: "audio", type: "application/octet-stream", body: "AB" },
    { inputs: query({}), property: "audio", type: "audio/wav", body: "XY" },
    { inputs: query({}), property: "image", type: "image/png", body: "BL" },
    { inputs: query({}), property: "", type: "application/octet-stream", body: "AB" },
    { inputs: query({}), property: "", type: "application/octet-stream", body: "bare" },
    { inputs: null, type: "application/json", body: query({ image: [65, 66], mask: [65, 66], audio: [65] }) },
    { inputs: null, type: "application/json", body: query({ image: [1, 2] }) },
  ]);
});

test("files and services", async () => {
  const passed = await get("/assets", { headers: { host: "worker.test" } });
  assert.deepEqual([passed.status, passed.held, passed.end], [200, 1, "held"]);
  assert.ok(passed.headers.some(([name, value]) => name === "x-was" && value === "http://worker.test/assets"));
  assert.ok(!passed.headers.some(([name]) => name === "x-held"));
  assert.deepEqual(await json("/assets-read"), [200, [["x-was", "http://a.test/x?y"]], "<html>"]);
  const changed = await get("/assets-changed");
  assert.deepEqual([changed.held, changed.headers.find(([name]) => name === "x-more")], [1, ["x-more", "1"]]);
  const [service, relative] = await json("/service");
  assert.deepEqual(service, { method: "POST", body: "b", url: "http://svc/p", a: "1" });
  assert.deepEqual([relative.name, relative.message], ["TypeError", "Invalid URL: /relative"]);
});

test("fetch", async () => {
  const [redirected, url, text, cookies, manual, posted, type, relative] = await json("/fetch");
  assert.deepEqual([redirected, url, text, cookies.join(), manual], [true, true, "plain", "a=1,b=2", 302]);
  assert.deepEqual([posted, type], ["a=b+c", "application/x-www-form-urlencoded;charset=UTF-8"]);
  assert.equal(relative.name, "TypeError");
  assert.equal((await get("/fetch-stream-body")).text, "stream");
  assert.equal((await json("/fetch-abort")).name, "TimeoutError");
});

test("caches and other globals", async () => {
  const [text, header, notKept, other, deleted, gone, post] = await json("/caches");
  assert.deepEqual(
    [text, header, notKept, other, deleted, gone, post.name],
    ["kept", "1", true, true, true, true, "TypeError"],
  );
  const { rewriter, fixed, ...rest } = await json("/globals");
  assert.deepEqual(rest, {
    agent: "Cloudflare-Workers",
    id: "7",
    equal: [true, false],
    cloned: { a: [1] },
    from: "f",
    random: true,
  });
  assert.match(rewriter.message, /HTMLRewriter is not supported/);
  assert.match(fixed.message, /too many bytes/);
});

test("events", async () => {
  instance.logs = [];
  const payload = (value) => new TextEncoder().encode(JSON.stringify(value));
  await instance.exports.event("scheduled", payload({ scheduledTime: 5, cron: "* * * * *" }));
  assert.deepEqual(lines(), ["info: scheduled 5 * * * * * hi", "info: later"]);
  const failed = (kind, value) => Promise.resolve().then(() => instance.exports.event(kind, payload(value)));
  await assert.rejects(failed("scheduled", { cron: "bad" }), { payload: /^Error: cron broke/ });
  await assert.rejects(failed("odd", {}), { payload: /does not know events of the kind odd/ });
});

test("batches of messages", async () => {
  instance.logs = [];
  const batch = (attempts) => ({
    queue: "q",
    metrics: { backlogCount: 3, backlogBytes: 20, oldestMessageTimestamp: 0 },
    messages: [
      { id: "a", timestamp: 0, attempts, contentType: "json", body: '{"n":1}' },
      { id: "b", timestamp: 0, attempts, contentType: "text", body: "{" },
      { id: "c", timestamp: 0, attempts, contentType: "bytes", body: "AP8=" },
    ],
  });
  const handled = async (attempts) => {
    const answer = await instance.exports.event("queue", new TextEncoder().encode(JSON.stringify(batch(attempts))));
    return JSON.parse(new TextDecoder().decode(answer));
  };
  const said = { batch: { retry: {} }, messages: { a: "ack", b: { retry: { delaySeconds: 7 } } } };
  assert.deepEqual(await handled(1), said);
  assert.equal(lines()[0], "info: q 1 { 0,255 1970-01-01T00:00:00.000Z 1");
  assert.match(lines()[1], /^warn: Received a call to retry\(\) on message a after ack\(\) was already called/);
  assert.match(lines()[2], /^warn: Received a call to ack\(\) on message c after retryAll\(\) was already called/);
  const { threw, ...rest } = await handled(2);
  assert.deepEqual(rest, said);
  assert.match(threw, /the batch broke/);
});

test("classes and the module cloudflare:workers", async () => {
  const other = await runtime.instance();
  await other.start(
    `(async () => { const { WorkerEntrypoint, env, waitUntil } = globalThis[Symbol.for("host.workers")];
      return { default: class extends WorkerEntrypoint { n = 0; fetch(request) { waitUntil(Promise.resolve().then(() => console.log("w"))); return Response.json([++this.n, this.env.A, env.A, typeof this.ctx.waitUntil]); } } }; })()`,
    { bindings: { A: { type: "text", value: "a" } } },
  );
  for (let n = 0; n < 2; n++) assert.equal((await other.handle("/")).text, '[1,"a","a","function"]');
  assert.deepEqual(other.logs[0], ["info", "w"]);
});

test("a script that cannot start says why", async () => {
  const cases = [
    ["(async () => ({}))()", /exports nothing[^]*export default/],
    ["(async () => ({ Named: 1, b: 2 }))()", /exports Named, b, but no default/],
    ["(async () => ({ default: {} }))()", /empty object/],
    ["(async () => ({ default: { get() {} } }))()", /has get, but no fetch/],
    ["(async () => ({ default: function handler() {} }))()", /function \[Function: handler\]/],
    ["(async () => ({ default: 5 }))()", /default export is 5/],
    ["(async () => ({ default: ))()", /SyntaxError[^]*worker\.js:1:/],
    ["(async () => {\n throw new TypeError('early');\n})()", /TypeError: early\n    at .*worker\.js:2:/],
    ["(async () => { await fetch('http://a/'); })()", /Disallowed operation called within global scope/],
    ["(async () => { setTimeout(() => {}, 1); })()", /Disallowed operation called within global scope/],
  ];
  const other = await runtime.instance();
  for (const [script, expected] of cases) {
    await assert.rejects(other.start(script), (error) => {
      assert.match(String(error.payload), expected);
      return true;
    });
  }
  await assert.rejects(
    other.start("(async () => ({ default: { fetch() {} } }))()", { bindings: { X: { type: "odd" } } }),
    { payload: /binding X is of type odd/ },
  );
});
