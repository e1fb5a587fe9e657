/**
 * Uses the page of examples/chat-ui as a person does, in a headless Chromium: asks, watches the answer grow, stops one,
 * loses the network and tries again.
 *
 * It speaks Chromium's debugging protocol over a pipe, so it needs no package and no port.
 *
 *     node chat_page.mjs CHROMIUM URL
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Longer than anything here takes on a loaded machine. */
const PATIENCE_MS = 120_000;

/** A browser with one page. */
class Browser {
  #pending = new Map();
  #last = 0;
  #session;
  /** What went wrong inside the page. */
  faults = [];

  constructor(child, profile) {
    this.child = child;
    this.profile = profile;
    let rest = "";
    child.stdio[4].setEncoding("utf8").on("data", (text) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop();
      for (const message of messages) this.#receive(JSON.parse(message));
    });
  }

  static async start(program) {
    const profile = await mkdtemp(join(tmpdir(), "host-chat-page-"));
    const flags = [
      "--headless=new",
      "--remote-debugging-pipe",
      // Nothing is loaded but the page under test. As root, and in most containers, there can be no sandbox.
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--no-first-run",
      `--user-data-dir=${profile}`,
    ];
    const child = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    const browser = new Browser(child, profile);
    const { targetId } = await browser.#send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await browser.#send("Target.attachToTarget", { targetId, flatten: true });
    browser.#session = sessionId;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await browser.send(`${domain}.enable`);
    return browser;
  }

  async end() {
    const exited = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exited;
    await rm(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }

  send(method, params = {}) {
    return this.#send(method, params, this.#session);
  }

  /** The value of an expression in the page; of a promise, what it becomes. */
  async value(expression) {
    const options = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", options);
    if (exceptionDetails) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return result.value;
  }

  async until(what, expression) {
    const start = Date.now();
    while (!(await this.value(expression))) {
      if (Date.now() - start > PATIENCE_MS) {
        throw new Error(`never: ${what}\n${await this.value("document.body.innerText")}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async press(key) {
    const code = { Enter: 13, Escape: 27 }[key];
    const event = { key, code: key, windowsVirtualKeyCode: code, ...(key === "Enter" && { text: "\r" }) };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  type(text) {
    return this.send("Input.insertText", { text });
  }

  #send(method, params, sessionId) {
    const id = ++this.#last;
    this.child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.#pending.set(id, { method, resolve, reject }));
  }

  #receive({ id, method, params, result, error }) {
    if (id === undefined) {
      if (method === "Runtime.exceptionThrown") this.faults.push(params.exceptionDetails.exception?.description);
      if (method === "Log.entryAdded" && params.entry.level === "error") this.faults.push(params.entry.text);
      return;
    }
    const { method: sent, resolve, reject } = this.#pending.get(id);
    this.#pending.delete(id);
    if (error) reject(new Error(`${sent}: ${error.message}`));
    else resolve(result);
  }
}

const COMPLETE = `document.getElementById("status").textContent === "The answer is complete."`;
const ANSWERS = `[...document.querySelectorAll(".assistant .text")].map((text) => text.textContent)`;
const shown = (id) => `!document.getElementById("${id}").hidden`;

async function ask(page, question) {
  await page.type(question);
  await page.press("Enter");
}

async function answersGrow(page) {
  // Every length that the answer has had on the page.
  await page.value(`
    globalThis.lengths = [];
    new MutationObserver(() => {
      const text = document.querySelector(".assistant .text");
      if (text) lengths.push(text.textContent.length);
    }).observe(document.getElementById("messages"), { childList: true, subtree: true, characterData: true });
  `);
  const hostile = `What is <img src=x onerror="globalThis.hit = true">?`;
  await ask(page, hostile);
  await page.until("the answer is complete", COMPLETE);
  const lengths = await page.value("lengths");
  assert.ok(new Set(lengths).size > 2, `the answer appeared in ${lengths.length} steps: ${lengths}`);
  assert.deepEqual(lengths, lengths.toSorted((a, b) => a - b));
  assert.equal(await page.value(`document.querySelector(".user .text").textContent`), hostile);
  assert.equal(await page.value(`document.querySelector("#messages img")`), null);
  assert.equal(await page.value("globalThis.hit"), undefined);
  assert.equal(await page.value(`document.getElementById("question").value`), "");
  assert.ok(await page.value(`${shown("send")} && document.getElementById("stop").hidden`));
}

async function escapeStops(page) {
  // Pressed inside the page, at the first piece of the answer, so that the answer cannot end before.
  await page.value(`
    new MutationObserver((_, observer) => {
      if (!${ANSWERS}[1]) return;
      observer.disconnect();
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
    }).observe(document.getElementById("messages"), { childList: true, subtree: true, characterData: true });
  `);
  await ask(page, "Write a long story about the sea.");
  await page.until("the answer is stopped", `document.getElementById("status").textContent === "The answer was stopped."`);
  assert.match(await page.value(`document.querySelector("#messages li:last-child").textContent`), /Stopped\.$/);
  assert.ok(await page.value(shown("send")));
}

async function newChatEmptiesThePage(page) {
  await page.value(`document.getElementById("new").click()`);
  assert.equal(await page.value(`document.querySelectorAll("#messages li").length`), 0);
  assert.ok(await page.value(shown("empty")));
  assert.equal(await page.value("document.activeElement.id"), "question");
}

async function lostNetworkIsSaidAndRetried(page) {
  const conditions = { latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
  await page.send("Network.emulateNetworkConditions", { ...conditions, offline: true });
  const before = page.faults.length;
  await ask(page, "What is the capital of France?");
  await page.until("the fault is shown", shown("error"));
  assert.match(await page.value(`document.getElementById("error-text").textContent`), /cannot be reached/);
  // The browser notes the lost request as an error of the page, which it is not.
  page.faults.length = before;
  await page.send("Network.emulateNetworkConditions", { ...conditions, offline: false });
  await page.value(`document.getElementById("retry").click()`);
  await page.until("the answer is complete", COMPLETE);
  assert.equal(await page.value(shown("error")), false);
  assert.deepEqual((await page.value(ANSWERS)).map((text) => text !== ""), [true]);
}

async function main(program, url) {
  const page = await Browser.start(program);
  try {
    await page.send("Page.navigate", { url });
    await page.until("the page is there", `document.readyState === "complete" && document.activeElement?.id === "question"`);
    for (const step of [answersGrow, escapeStops, newChatEmptiesThePage, lostNetworkIsSaidAndRetried]) {
      await step(page);
      console.log(`${step.name}: ok`);
    }
    assert.deepEqual(page.faults, []);
  } finally {
    await page.end();
  }
}

await main(process.argv[2], process.argv[3]);
