/**
 * Uses the page of examples/transcribe as a person does, in a headless Chromium: gives it a file, speaks into the
 * microphone, stops it, and is told what went wrong. The microphone is a file that Chromium plays.
 *
 *     node transcribe_page.mjs CHROMIUM URL SPEECH
 *
 * SPEECH is a file in which "ask not what your country can do for you" is said within the first eight seconds.
 */

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser, shown, text, walk } from "./browser.mjs";

const RATE = 16_000;
/** Whole seconds of the recording after which the sentence has been said. */
const SAID_AFTER = 9;

const DONE = `/^\\d+ words in /.test(${text("status")})`;

/** The sound as a WAV file, which is what Chromium's microphone plays; the browser itself reads the other format. */
async function wav(program, speech) {
  const page = await Browser.start(program);
  try {
    const encoded = (await readFile(speech)).toString("base64");
    const samples = await page.value(`(async () => {
      const bytes = Uint8Array.from(atob("${encoded}"), (letter) => letter.charCodeAt(0));
      const sound = await new OfflineAudioContext(1, 1, ${RATE}).decodeAudioData(bytes.buffer);
      return [...sound.getChannelData(0)].map((sample) => Math.round(sample * 32767));
    })()`);
    const head = Buffer.alloc(44);
    head.write("RIFF", 0);
    head.writeUInt32LE(36 + samples.length * 2, 4);
    head.write("WAVEfmt ", 8);
    head.writeUInt32LE(16, 16);
    // PCM, one channel, 16 bits.
    head.writeUInt16LE(1, 20);
    head.writeUInt16LE(1, 22);
    head.writeUInt32LE(RATE, 24);
    head.writeUInt32LE(RATE * 2, 28);
    head.writeUInt16LE(2, 32);
    head.writeUInt16LE(16, 34);
    head.write("data", 36);
    head.writeUInt32LE(samples.length * 2, 40);
    return Buffer.concat([head, Buffer.from(Int16Array.from(samples).buffer)]);
  } finally {
    await page.end();
  }
}

async function main(program, url, speech) {
  const folder = await mkdtemp(join(tmpdir(), "host-transcribe-page-"));
  const [sound, broken] = [join(folder, "speech.wav"), join(folder, "broken.wav")];

  async function aFileIsWrittenDown(page) {
    await page.choose("#file", [sound]);
    await page.until("the file is written down", DONE);
    assert.match(await page.value(text("text")), /ask not what your country can do for you/i);
    assert.ok(await page.value(`${shown("result")} && !${shown("stop")} && !${shown("error")}`));
    const captions = await page.value(`fetch(document.getElementById("vtt").href).then((reply) => reply.text())`);
    assert.match(captions, /^WEBVTT\n\n00:00:0/);
    await page.picture("transcribe");
  }

  async function aWordIsPlayedFromItsTime(page) {
    const time = await page.value(`(async () => {
      const player = document.getElementById("sound");
      if (player.readyState === 0) await new Promise((resolve) => (player.onloadedmetadata = resolve));
      const seeked = new Promise((resolve) => (player.onseeking = () => resolve(player.currentTime)));
      [...document.querySelectorAll(".word")].find((word) => word.textContent === "country").click();
      return seeked;
    })()`);
    assert.ok(time > 3 && time < 8, `${time}`);
    await page.value(`document.getElementById("sound").pause()`);
  }

  async function theMicrophoneIsWrittenDown(page) {
    await page.value(`document.getElementById("record").click()`);
    const seconds = `Number(/^Recording, (\\d+) s/.exec(${text("status")})?.[1])`;
    await page.until("it has been said", `${seconds} >= ${SAID_AFTER}`);
    assert.equal(await page.value(text("record")), "Finish");
    await page.picture("transcribe-recording");
    await page.value(`document.getElementById("record").click()`);
    await page.until("the recording is written down", `${DONE} || ${shown("error")}`);
    assert.match(await page.value(text("text")), /what your country can do for you/i, await page.value(text("error")));
    assert.equal(await page.value(text("record")), "Record");
  }

  async function escapeStops(page) {
    // Pressed inside the page as soon as the file is on its way, so that the answer cannot come before.
    await page.value(`
      new MutationObserver((_, observer) => {
        if (${text("status")} !== "Listening…") return;
        observer.disconnect();
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
      }).observe(document.getElementById("status"), { childList: true, subtree: true, characterData: true });
    `);
    await page.choose("#file", [sound]);
    await page.until("it is stopped", `${text("status")} === "The transcription was stopped."`);
    assert.ok(await page.value(`!${shown("stop")} && !${shown("error")} && !${shown("result")}`));
  }

  async function faultsAreShown(page) {
      await page.choose("#file", [broken]);
    await page.until("the refusal is shown", shown("error"));
    assert.match(await page.value(text("error")), /'\/audio' cannot be read/);
    await page.picture("transcribe-fault");
      await page.offline(async () => {
      await page.choose("#file", [sound]);
      await page.until("the fault is shown", `${shown("error")} && ${text("error")}.includes("cannot be reached")`);
    });
    await page.value(`
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error("it is not allowed"));
      document.getElementById("record").click();
    `);
    await page.until("the denial is shown", `${text("error")} === "The microphone cannot be used: it is not allowed"`);
    assert.equal(await page.value(text("record")), "Record");
  }

  try {
    await writeFile(sound, await wav(program, speech));
    await writeFile(broken, "no sound at all");
    const flags = [
      "--use-fake-device-for-media-stream",
      "--use-fake-ui-for-media-stream",
      `--use-file-for-fake-audio-capture=${sound}`,
    ];
    await walk({ program, url, flags, ready: shown("record"), expected: [/status of 400/] }, [
      aFileIsWrittenDown,
      aWordIsPlayedFromItsTime,
      theMicrophoneIsWrittenDown,
      escapeStops,
      faultsAreShown,
    ]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const [program, url, speech] = process.argv.slice(2);
await main(program, url, speech);
