// The host's answers to the runtime, over loopback: a thread of its own, because the guest's waits block the test's.

import { createServer } from "node:http";
import { parentPort } from "node:worker_threads";

const seen = [];
const held = new Map();
let nextHeld = 1;

const routes = {
  "GET /reset": (_, reply) => {
    seen.length = 0;
    held.clear();
    nextHeld = 1;
    reply(204);
  },
  "GET /drain": (_, reply) => reply(200),
  "GET /body": (_, reply) => reply(200, {}, ["piece one, ", "piece two"]),
  "GET /redirect": (_, reply) => reply(302, { location: "/plain" }),
  "GET /plain": (_, reply) => reply(200, { "content-type": "text/plain", "set-cookie": ["a=1", "b=2"] }, ["plain"]),
  "POST /echo": (request, reply) => reply(200, { "x-type": request.headers["content-type"] ?? "none" }, [request.body]),
  "GET /slow": (_, reply) => setTimeout(() => reply(200, {}, ["late"]), 3000).unref(),
};

function hold(pieces) {
  held.set(nextHeld, pieces);
  return nextHeld++;
}

function ai(request, reply) {
  const model = request.headers["cf-consn-model-id"];
  const json = { "content-type": "application/json", "cf-ai-req-id": "req-1" };
  if (model === "json") return reply(200, json, [JSON.stringify({ response: "hi", got: JSON.parse(request.body) })]);
  if (model === "stream") {
    const pieces = ["data: one\n\n", "data: two\n\n", "data: [DONE]\n\n"];
    return reply(200, { "content-type": "text/event-stream", "x-held": String(hold(pieces)) });
  }
  if (model === "bytes") return reply(200, { "content-type": "image/png" }, ["PNG", "DATA"]);
  if (model === "error") {
    const error = { internalCode: 5007, description: "No such model nope or task", name: "AiError", message: "x" };
    return reply(400, json, [JSON.stringify(error)]);
  }
  if (model === "text-error") return reply(502, { "content-type": "text/plain" }, ["bad gateway"]);
  if (model === "slow") return setTimeout(() => reply(200, json, ["{}"]), 3000).unref();
  return reply(200, json, [
    JSON.stringify({ model, query: request.url, headers: request.headers, body: request.body }),
  ]);
}

function answer(request, reply) {
  const path = request.url.split("?")[0];
  const route = routes[`${request.method} ${path}`];
  if (route) return route(request, reply);
  const number = /^\/held\/(\d+)$/.exec(path);
  if (number) {
    const pieces = held.get(Number(number[1]));
    held.delete(Number(number[1]));
    return pieces ? reply(200, {}, request.method === "GET" ? pieces : []) : reply(404);
  }
  if (path === "/binding/AI/run") return ai(request, reply);
  if (path === "/binding/AI/models")
    return reply(200, { "content-type": "application/json" }, [JSON.stringify([request.url])]);
  if (path === "/binding/ASSETS/fetch") {
    return reply(200, {
      "content-type": "text/html",
      "x-held": String(hold(["<html>"])),
      "x-was": request.headers["x-url"],
    });
  }
  if (path === "/binding/SVC/fetch") {
    const { method, body, headers } = request;
    return reply(201, { "content-type": "application/json" }, [
      JSON.stringify({ method, body, url: headers["x-url"], a: headers["x-a"] }),
    ]);
  }
  return reply(404, {}, ["no such thing"]);
}

const server = createServer(async (incoming, outgoing) => {
  if (incoming.url === "/seen") return outgoing.end(JSON.stringify(seen));
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const request = {
    method: incoming.method,
    url: incoming.url,
    headers: incoming.headers,
    body: Buffer.concat(chunks).toString("latin1"),
  };
  if (incoming.url !== "/reset")
    seen.push({ method: request.method, url: request.url, headers: request.headers, body: request.body });
  answer(request, (status, headers = {}, pieces = []) => {
    outgoing.writeHead(status, headers);
    for (const piece of pieces) outgoing.write(piece);
    outgoing.end();
  });
});
server.listen(0, "127.0.0.1", () => parentPort.postMessage(server.address().port));
