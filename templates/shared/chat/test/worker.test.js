import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startHost } from "./host.js";

let host;
before(async () => {
  host = await startHost();
});
after(() => host?.stop());

const get = (path) => fetch(new URL(path, host.url));

test("says how to ask", async () => {
  const response = await get("/");
  assert.equal(response.status, 400);
  assert.match(await response.text(), /\?q=/);
});

test("answers a question", async () => {
  const response = await get("/?q=Why+is+the+sky+blue?");
  assert.equal(response.status, 200);
  const { response: answer, usage } = await response.json();
  assert.equal(typeof answer, "string");
  assert.notEqual(answer, "");
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test("streams an answer", async () => {
  const response = await get("/?q=Tell+me+a+story&stream");
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  const events = (await response.text()).split("\n\n").filter((event) => event !== "");
  assert.ok(events.length > 1, `${events.length} events`);
  assert.ok(events.every((event) => event.startsWith("data: ")));
  assert.equal(events.at(-1), "data: [DONE]");
});

test("goes on with a conversation", async () => {
  const messages = [
    { role: "user", content: "My name is Ada." },
    { role: "assistant", content: "Nice to meet you, Ada." },
    { role: "user", content: "What is my name?" },
  ];
  const response = await fetch(new URL("/chat", host.url), { method: "POST", body: JSON.stringify({ messages }) });
  assert.equal(response.status, 200);
  assert.match(await response.text(), /data: \[DONE\]\n\n$/);
});

test("refuses what is no conversation", async () => {
  for (const body of ["{", "{}", '{"messages":[]}', '{"messages":["hello"]}']) {
    const response = await fetch(new URL("/chat", host.url), { method: "POST", body });
    assert.equal(response.status, 400, body);
  }
});
