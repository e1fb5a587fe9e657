// The worker of the runtime's tests: a handler for each path.

const enc = new TextEncoder();
let count = 0;

const chunks = (...pieces) =>
  new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(typeof piece === "string" ? enc.encode(piece) : piece);
      controller.close();
    },
  });

const caught = async (run) => {
  try {
    return { value: await run() };
  } catch (error) {
    return { name: error.name, message: error.message, dom: error instanceof DOMException };
  }
};

const routes = {
  "/": () => new Response("hello"),
  "/count": () => new Response(String(++count)),
  "/echo": async (request) => Response.json(await request.json()),
  "/request": (request) =>
    Response.json({
      method: request.method,
      url: request.url,
      headers: [...request.headers],
      host: request.headers.get("Host"),
      body: request.body === null,
    }),
  "/frozen": (request) => request.headers.set("a", "b"),
  "/forward-body": (request) => new Response(request.body),
  "/text-body": async (request) => new Response((await request.text()).toUpperCase()),
  "/buffer-body": async (request) => {
    const buffer = await request.arrayBuffer();
    return Response.json([buffer instanceof ArrayBuffer, buffer.byteLength]);
  },
  "/twice": async (request) => {
    await request.text();
    return new Response(await request.text());
  },
  "/form": async (request) => Response.json([...(await request.formData())]),
  "/cookies": () => {
    const headers = new Headers({ "x-a": "é" });
    headers.append("set-cookie", "a=1");
    headers.append("set-cookie", "b=2");
    return new Response(new Uint8Array([1, 2]), { status: 201, headers });
  },
  "/plain-headers": () => new Response("x", { headers: { "X-Upper": " v ", "content-type": "text/css" } }),
  "/bad-header": () => new Response("x", { headers: { "x-bad": "a\nb" } }),
  "/none": () => new Response(null, { status: 204 }),
  "/null-with-body": () => new Response("x", { status: 204 }),
  "/bad-status": () => new Response("x", { status: 99 }),
  "/redirect": () => Response.redirect("http://a.test/b", 301),
  "/copy": async (_, env) => new Response(chunks("a"), new Response("b", { status: 418, headers: { "x-a": "1" } })),
  "/clone": async () => {
    const response = new Response("twice");
    const streamed = new Response(chunks("s", "t"));
    const fetched = await fetch(`${INTERNAL}/plain`);
    const parts = [response.clone(), response, streamed.clone(), streamed, fetched.clone(), fetched];
    return Response.json(await Promise.all(parts.map((part) => part.text())));
  },
  "/after-body": () => {
    const response = new Response("kept");
    return response.body ? response : null;
  },
  "/used": async () => {
    const response = new Response("gone");
    await response.text();
    return response;
  },
  "/instances": async () =>
    Response.json([
      new Response() instanceof Response,
      (await fetch(`${INTERNAL}/plain`)) instanceof Response,
      new Request("http://a/") instanceof Request,
      Response.name,
      String(new Response()),
    ]),
  "/stream": () => new Response(chunks("one", "two"), { headers: { "content-type": "text/x" } }),
  "/slow-stream": () =>
    new Response(
      new ReadableStream({
        async pull(controller) {
          await scheduler.wait(1);
          if (++this.n > 3) controller.close();
          else controller.enqueue(enc.encode(`${this.n};`));
        },
        n: 0,
      }),
    ),
  "/endless": () =>
    new Response(
      new ReadableStream({
        pull: (controller) => controller.enqueue(enc.encode("x")),
        cancel: (reason) => console.log("cancelled", String(reason)),
      }),
    ),
  "/text-stream": () => new Response(new ReadableStream({ start: (c) => (c.enqueue("text"), c.close()) })),
  "/broken-stream": () =>
    new Response(
      new ReadableStream({
        pull(controller) {
          if (this.n++) throw new Error("stream broke");
          controller.enqueue(enc.encode("x"));
        },
        n: 0,
      }),
    ),
  "/encoder-stream": () =>
    new Response(
      new ReadableStream({ start: (c) => (c.enqueue("é"), c.close()) }).pipeThrough(new TextEncoderStream()),
    ),
  "/identity": () => {
    const { readable, writable } = new IdentityTransformStream();
    const writer = writable.getWriter();
    writer.write(enc.encode("abc"));
    writer.close();
    return new Response(readable);
  },
  "/iterate": async () => {
    const pieces = [];
    for await (const text of chunks("a", "é").pipeThrough(new TextDecoderStream())) pieces.push(text);
    return Response.json(pieces);
  },
  "/throw": () => {
    throw new Error("thrown", { cause: new TypeError("why") });
  },
  "/throw-text": () => {
    throw "a text";
  },
  "/throw-hostile": () => {
    throw Object.defineProperty(new Error("x"), "message", {
      get() {
        throw new Error("twice");
      },
    });
  },
  "/throw-null": () => {
    throw null;
  },
  "/reject": async () => Promise.reject(new RangeError("rejected")),
  "/nothing": () => undefined,
  "/wait-until": (request, env, ctx) => {
    ctx.waitUntil(scheduler.wait(5).then(() => console.log("waited")));
    ctx.waitUntil(Promise.reject(new Error("in the background")));
    ctx.passThroughOnException();
    return new Response("done");
  },
  "/timer-throws": async () => {
    setTimeout(() => {
      throw new Error("in a timer");
    }, 1);
    setInterval(() => console.log("tick of an ended request"), 1e6);
    queueMicrotask(() => {
      throw new Error("in a microtask");
    });
    await scheduler.wait(10);
    return new Response("alive");
  },
  "/unhandled": async () => {
    Promise.reject(new Error("nobody listens"));
    await scheduler.wait(1);
    return new Response("alive");
  },
  "/log": () => {
    class Point {
      x = 1;
      get y() {
        return 2;
      }
    }
    const cycle = { name: "c" };
    cycle.self = cycle;
    console.log("text", 1, true, null, undefined, 10n, Symbol("s"), -0);
    console.info({ a: [1, "two", { b: { c: { d: 1 } } }], "odd key": new Date(0) });
    console.warn(cycle, new Map([["k", 1]]), new Set([1, 2]));
    console.error(new Error("logged"));
    console.debug("%s has %d of %i %j %o %% %s", "he", 3, 4.7, { a: 1 }, ["x"], "rest", "more");
    console.log(new Point(), Point, () => 1, new Uint8Array([1, 2, 3]), new ArrayBuffer(4), /x/g, [, 1]);
    console.log(Object.create(null), new Headers({ a: "b" }), new Response("x", { status: 404 }));
    console.log(
      "x".repeat(20000),
      Array.from({ length: 200 }, (_, n) => n),
    );
    console.assert(1 === 2, "sums");
    console.group("outer");
    console.log("inner\nlines");
    console.groupEnd();
    console.trace("here");
    return new Response();
  },
  "/env": (_, env) => {
    const { GREETING, then, MISSING } = env;
    return Response.json({
      GREETING,
      then,
      MISSING,
      again: env.MISSING,
      flags: env.FLAGS.on,
      keys: Object.keys(env),
      has: "AI" in env,
      not: "KV" in env,
      json: Object.keys(JSON.parse(JSON.stringify(env))),
      own: Object.hasOwn(env, "GREETING"),
      ai: String(env.AI2),
    });
  },
  "/ai": async (_, env) =>
    Response.json(
      await env.AI.run(
        "json",
        { prompt: "x" },
        { gateway: { id: "g" }, extraHeaders: { "x-session-affinity": "s" }, signal: new AbortController().signal },
      ),
    ),
  "/ai-parallel": async (_, env) =>
    Response.json(await Promise.all(["x", "y"].map((prompt) => env.AI.run("json", { prompt })))),
  "/ai-wire": async (_, env) =>
    Response.json([await env.AI.run("m", {}, { prefix: "p" }), env.AI.lastRequestId, env.AI.aiGatewayLogId]),
  "/ai-stream": async (_, env) =>
    new Response(await env.AI.run("stream", { stream: true }), { headers: { "content-type": "text/event-stream" } }),
  "/ai-read": async (_, env) =>
    new Response((await new Response(await env.AI.run("stream", { stream: true })).text()).replaceAll("\n", "|")),
  "/ai-iterate": async (_, env) => {
    let text = "";
    for await (const piece of await env.AI.run("stream", { stream: true })) text += new TextDecoder().decode(piece);
    return new Response(text);
  },
  "/ai-piped": async (_, env) =>
    new Response((await env.AI.run("stream", { stream: true })).pipeThrough(new TransformStream())),
  "/ai-tee": async (_, env) => {
    const [left, right] = (await env.AI.run("stream", { stream: true })).tee();
    return Response.json([await new Response(left).text(), await new Response(right).text()]);
  },
  "/ai-cancel": async (_, env) => {
    await (await env.AI.run("stream", { stream: true })).cancel();
    await scheduler.wait(20);
    return new Response("cancelled");
  },
  "/ai-bytes": async (_, env) =>
    new Response(await env.AI.run("bytes", { prompt: "x" }), { headers: { "content-type": "image/png" } }),
  "/ai-errors": async (_, env) => {
    const other = new AbortController();
    setTimeout(() => other.abort(), 30);
    const done = AbortSignal.abort();
    const stream = new AbortController();
    const reader = (await env.AI.run("stream", { stream: true }, { signal: stream.signal })).getReader();
    stream.abort();
    return Response.json([
      await caught(() => env.AI.run("error", {})),
      await caught(() => env.AI.run("text-error", {})),
      await caught(() => env.AI.run("slow", {}, { signal: other.signal })),
      await caught(() => env.AI.run("json", {}, { signal: done })),
      await caught(() => reader.read()),
      await caught(() => env.AI.toMarkdown()),
      await caught(() => env.AI.gateway("")),
    ]);
  },
  "/ai-raw": async (_, env) => {
    const response = await env.AI.run("error", {}, { returnRawResponse: true });
    const stream = await env.AI.run("stream", { stream: true }, { returnRawResponse: true });
    return Response.json([
      response instanceof Response,
      response.status,
      await response.json(),
      [...stream.headers.keys()].includes("x-held"),
      await stream.text(),
    ]);
  },
  "/ai-raw-stream": async (_, env) => env.AI.run("stream", { stream: true }, { returnRawResponse: true }),
  "/ai-binary": async (_, env) => {
    const bytes = new Uint8Array([65, 66]);
    const cases = [
      { audio: bytes, language: "en" },
      { audio: { body: chunks("XY"), contentType: "audio/wav" } },
      { image: new Blob(["BL"], { type: "image/png" }) },
      bytes,
      chunks("bare"),
      { image: bytes, mask: bytes.buffer, audio: { body: chunks("A"), contentType: "x/y" } },
      { image: [1, 2] },
    ];
    const answers = [];
    for (const inputs of cases) {
      const { query, headers, body } = await env.AI.run("m", inputs, { tags: ["t"] });
      answers.push({
        inputs: new URL(query, "http://x").searchParams.get("userInputs"),
        property: headers["x-input-property"],
        type: headers["content-type"],
        body,
      });
    }
    return Response.json(answers);
  },
  "/ai-models": async (_, env) => Response.json(await env.AI.models({ task: "Text Generation", page: 2 })),
  "/assets": (request, env) => env.ASSETS.fetch(request),
  "/assets-read": async (request, env) => {
    const response = await env.ASSETS.fetch("http://a.test/x?y");
    return Response.json([
      response.status,
      [...response.headers].filter(([name]) => name.startsWith("x-")),
      await response.text(),
    ]);
  },
  "/assets-changed": async (request, env) => {
    const response = await env.ASSETS.fetch("http://a.test/");
    const copy = new Response(response.body, response);
    copy.headers.set("x-more", "1");
    return copy;
  },
  "/service": async (request, env) =>
    Response.json([
      await (await env.SVC.fetch("http://svc/p", { method: "POST", body: "b", headers: { "x-a": "1" } })).json(),
      await caught(() => env.SVC.fetch("/relative")),
    ]),
  "/fetch": async () => {
    const response = await fetch(`${INTERNAL}/redirect`);
    const manual = await fetch(`${INTERNAL}/redirect`, { redirect: "manual" });
    const posted = await fetch(`${INTERNAL}/echo`, { method: "POST", body: new URLSearchParams({ a: "b c" }) });
    return Response.json([
      response.redirected,
      response.url.endsWith("/plain"),
      await response.text(),
      response.headers.getSetCookie(),
      manual.status,
      await posted.text(),
      posted.headers.get("x-type"),
      await caught(() => fetch("/relative")),
    ]);
  },
  "/fetch-stream-body": async () => fetch(`${INTERNAL}/echo`, { method: "POST", body: chunks("st", "ream") }),
  "/fetch-abort": async () =>
    Response.json(await caught(() => fetch(`${INTERNAL}/slow`, { signal: AbortSignal.timeout(30) }))),
  "/caches": async () => {
    const cache = caches.default;
    const url = "http://c.test/a";
    await cache.put(url, new Response("kept", { headers: { "cache-control": "max-age=60", "x-a": "1" } }));
    await cache.put("http://c.test/no", new Response("not", { headers: { "cache-control": "no-store" } }));
    const other = await caches.open("other");
    const found = await cache.match(new Request(url));
    return Response.json([
      found && (await found.text()),
      found?.headers.get("x-a"),
      (await cache.match("http://c.test/no")) === undefined,
      (await other.match(url)) === undefined,
      await cache.delete(url),
      (await cache.match(url)) === undefined,
      await caught(() => cache.put(new Request(url, { method: "POST" }), new Response(""))),
    ]);
  },
  "/globals": async () => {
    const pattern = new URLPattern({ pathname: "/users/:id" });
    return Response.json({
      agent: navigator.userAgent,
      id: pattern.exec("http://a.test/users/7").pathname.groups.id,
      equal: [
        crypto.subtle.timingSafeEqual(enc.encode("a"), enc.encode("a")),
        crypto.timingSafeEqual(enc.encode("a"), enc.encode("b")),
      ],
      cloned: structuredClone({ a: [1] }),
      rewriter: await caught(() => new HTMLRewriter()),
      fixed: await caught(() => {
        const { readable, writable } = new FixedLengthStream(2);
        const writer = writable.getWriter();
        writer.write(enc.encode("abc")).catch(() => {});
        return new Response(readable).text();
      }),
      from: await new Response(ReadableStream.from([enc.encode("f")])).text(),
      random: Math.random() !== Math.random(),
    });
  },
};

const worker = {
  async fetch(request, env, ctx) {
    const route = routes[new URL(request.url).pathname];
    return route ? route(request, env, ctx) : new Response("not found", { status: 404 });
  },
  async scheduled(controller, env, ctx) {
    if (controller.cron === "bad") throw new Error("cron broke");
    console.log("scheduled", controller.scheduledTime, controller.cron, env.GREETING);
    ctx.waitUntil(scheduler.wait(1).then(() => console.log("later")));
  },
  async queue(batch) {
    const [first, second, third] = batch.messages;
    console.log(batch.queue, first.body.n, second.body, [...third.body].join(), first.timestamp.toISOString(), first.attempts);
    first.ack();
    first.retry();
    second.retry({ delaySeconds: 7 });
    batch.retryAll();
    third.ack();
    if (first.attempts > 1) throw new Error("the batch broke");
  },
};
