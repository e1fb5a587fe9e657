import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startHost } from "./host.js";

let host;
before(async () => {
  host = await startHost();
});
after(() => host?.stop());

test("greets the world", async () => {
  const response = await fetch(new URL("/", host.url));
  assert.equal(response.status, 200);
  assert.equal(await response.text(), "Hello, world!\n");
});

test("greets by name", async () => {
  const response = await fetch(new URL("/?name=Ada", host.url));
  assert.equal(await response.text(), "Hello, Ada!\n");
});
