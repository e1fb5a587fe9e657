import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { startHost } from "./host.js";

let host;
before(async () => {
  host = await startHost();
});
after(() => host?.stop());

const send = (method, path, body) =>
  fetch(new URL(path, host.url), { method, body: body === undefined ? undefined : JSON.stringify(body) });

const passages = async () => (await (await send("GET", "/status")).json()).passages;

/** Waits until the index has this many passages. */
async function until(wanted) {
  while ((await passages()) !== wanted) await setTimeout(20);
}

const LONG = { id: "test-long", title: "Long", source: "test", text: "One sentence of many. ".repeat(50) };
const SHORT = { id: "test-short", title: "Short", source: "test", text: "There is nothing to it." };

test("says how to ask, and what is wrong", async () => {
  assert.match(await (await send("GET", "/")).text(), /POST +\/documents/);
  assert.equal((await send("GET", "/nothing")).status, 404);
  assert.equal((await send("GET", "/ask")).status, 400);
  for (const body of [{}, [], [SHORT, SHORT], { ...SHORT, id: "a/b" }, { ...SHORT, text: " " }, { ...SHORT, title: 1 }]) {
    const response = await send("POST", "/documents", body);
    assert.equal(response.status, 400);
    assert.equal(typeof (await response.json()).error, "string");
  }
});

test("stores documents, answers from them and removes them", async () => {
  const start = await passages();
  const response = await send("POST", "/documents", [LONG, SHORT]);
  assert.equal(response.status, 202);
  assert.deepEqual(await response.json(), { documents: 2, passages: 3 });
  await until(start + 3);

  const answered = await send("POST", "/ask", { question: "What is there to it?" });
  assert.equal(answered.status, 200);
  const { answer, citations } = await answered.json();
  assert.notEqual(answer, "");
  assert.equal(citations.length, 3);
  const scores = citations.map(({ score }) => score);
  assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
  for (const { id, title, source } of citations) assert.ok([id, title, source].every((text) => text !== ""));

  const streamed = await send("GET", "/ask?q=What+is+there+to+it?&stream");
  const events = (await streamed.text()).split("\n\n").filter((event) => event !== "");
  assert.match(events[0], /^event: citations\ndata: \[/);
  assert.equal(events.at(-1), "data: [DONE]");

  // A shorter version leaves nothing of the longer one.
  await send("POST", "/documents", { ...SHORT, id: LONG.id });
  await until(start + 2);
  for (const { id } of [LONG, SHORT]) {
    assert.deepEqual(await (await send("DELETE", `/documents/${id}`)).json(), { removed: id, passages: 1 });
  }
  assert.equal((await send("DELETE", `/documents/${SHORT.id}`)).status, 404);
  await until(start);
});
