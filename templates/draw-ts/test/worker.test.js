import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startHost } from "./host.js";

let host;
before(async () => {
  host = await startHost();
});
after(() => host?.stop());

const get = (path) => fetch(new URL(path, host.url));

async function drawn(query) {
  const response = await get(`/api/draw?${query}`);
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-type"), "image/png");
  return Buffer.from(await response.arrayBuffer());
}

test("serves its page", async () => {
  const response = await get("/");
  assert.equal(response.status, 200);
  assert.match(await response.text(), /<script type="module" src="\/app.js">/);
});

test("draws the same for the same seed", async () => {
  const picture = await drawn("prompt=a+red+circle&seed=3&steps=2");
  assert.equal(picture.toString("latin1", 1, 4), "PNG");
  assert.deepEqual(await drawn("prompt=a+red+circle&seed=3&steps=2"), picture);
  assert.notDeepEqual(await drawn("prompt=a+red+circle&seed=4&steps=2"), picture);
});

test("refuses what it cannot draw", async () => {
  for (const query of ["", "prompt=", "prompt=x&seed=-1", "prompt=x&steps=0", `prompt=${"x".repeat(501)}`]) {
    const response = await get(`/api/draw?${query}`);
    assert.equal(response.status, 400, query);
    assert.equal(typeof (await response.json()).error, "string");
  }
});
