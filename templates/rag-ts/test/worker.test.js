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

test("answers from its notes", async () => {
  for (let round = 0; round < 2; round++) {
    const response = await get("/?q=When+is+the+workshop+open?");
    assert.equal(response.status, 200);
    const { answer, sources } = await response.json();
    assert.equal(typeof answer, "string");
    assert.notEqual(answer, "");
    assert.equal(sources.length, 3);
    const scores = sources.map(({ score }) => score);
    assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
    assert.ok(sources.every(({ text }) => typeof text === "string" && text !== ""));
  }
});

test("streams the sources first, then the answer", async () => {
  const response = await get("/?q=When+is+the+workshop+open?&stream");
  assert.equal(response.status, 200);
  const events = (await response.text()).split("\n\n").filter((event) => event !== "");
  assert.match(events[0], /^event: sources\ndata: \[/);
  assert.equal(events.at(-1), "data: [DONE]");
});
