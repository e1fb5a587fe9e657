import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startHost } from "./host.js";

let host;
before(async () => {
  host = await startHost();
});
after(() => host?.stop());

/** A tenth of a second of silence as a WAV file. */
function silence() {
  const [rate, samples] = [16_000, 1_600];
  const file = Buffer.alloc(44 + samples * 2);
  file.write("RIFF", 0);
  file.writeUInt32LE(file.length - 8, 4);
  file.write("WAVEfmt ", 8);
  file.writeUInt32LE(16, 16);
  // PCM, one channel, 16 bits.
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(1, 22);
  file.writeUInt32LE(rate, 24);
  file.writeUInt32LE(rate * 2, 28);
  file.writeUInt16LE(2, 32);
  file.writeUInt16LE(16, 34);
  file.write("data", 36);
  file.writeUInt32LE(samples * 2, 40);
  return file;
}

const send = (body) => fetch(new URL("/api/transcribe", host.url), { method: "POST", body });

test("serves its page", async () => {
  const response = await fetch(new URL("/", host.url));
  assert.equal(response.status, 200);
  assert.match(await response.text(), /<script type="module" src="\/app.js">/);
});

test("writes down what is said", async () => {
  const response = await send(silence());
  assert.equal(response.status, 200);
  const { text, words, vtt } = await response.json();
  assert.equal(typeof text, "string");
  assert.ok(words.every(({ word, start, end }) => typeof word === "string" && start <= end));
  assert.match(vtt, /^WEBVTT\n/);
});

test("refuses what is no sound", async () => {
  const response = await send("");
  assert.equal(response.status, 400);
  assert.equal(typeof (await response.json()).error, "string");
  const got = await fetch(new URL("/api/transcribe", host.url));
  assert.equal(got.status, 405);
});
