/**
 * What the tests of the examples' pages share: a headless Chromium with one page, used as a person uses it.
 *
 * It speaks Chromium's debugging protocol over a pipe, so it needs no package and no port.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Longer than anything here takes on a loaded machine. */
const PATIENCE_MS = 120_000;

/** A browser with one page. */
export class Browser {
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

  /** Starts `program`; `more` are flags beside those that every test needs. */
  static async start(program, more = []) {
    const profile = await mkdtemp(join(tmpdir(), "host-page-"));
    const flags = [
      "--headless=new",
      "--remote-debugging-pipe",
      // Nothing is loaded but the page under test. As root, and in most containers, there can be no sandbox.
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-quic",
      "--no-first-run",
      `--user-data-dir=${profile}`,
      ...more,
    ];
    const child = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    const browser = new Browser(child, profile);
    const { targetId } = await browser.#send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await browser.#send("Target.attachToTarget", { targetId, flatten: true });
    browser.#session = sessionId;
    for (const domain of ["Page", "DOM", "Runtime", "Log", "Network"]) await browser.send(`${domain}.enable`);
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
    const code = { Enter: 13, Escape: 27, Tab: 9 }[key];
    const event = { key, code: key, windowsVirtualKeyCode: code, ...(key === "Enter" && { text: "\r" }) };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  type(text) {
    return this.send("Input.insertText", { text });
  }

  /** Chooses files in the `input` that a selector finds, as its dialog would. */
  async choose(selector, files) {
    const { root } = await this.send("DOM.getDocument");
    const { nodeId } = await this.send("DOM.querySelector", { nodeId: root.nodeId, selector });
    await this.send("DOM.setFileInputFiles", { nodeId, files });
  }

  /** Runs `step` without a network. What the browser notes of it is no fault of the page. */
  async offline(step) {
    const conditions = { latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
    const before = this.faults.length;
    await this.send("Network.emulateNetworkConditions", { ...conditions, offline: true });
    await step();
    this.faults.length = before;
    await this.send("Network.emulateNetworkConditions", { ...conditions, offline: false });
  }

  /** Keeps the page for a person to look at, where `HOST_SCREENSHOTS` names a folder: bright, dark and on a phone. */
  async picture(name) {
    const folder = process.env.HOST_SCREENSHOTS;
    if (!folder) return;
    for (const [kind, scheme, width] of [["light", "light", 1000], ["dark", "dark", 1000], ["phone", "light", 360]]) {
      await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
      const metrics = { width, height: 740, deviceScaleFactor: 1, mobile: false };
      await this.send("Emulation.setDeviceMetricsOverride", metrics);
      const { data } = await this.send("Page.captureScreenshot", { format: "png" });
      await writeFile(join(folder, `${name}-${kind}.png`), data, "base64");
    }
    await this.send("Emulation.setEmulatedMedia", { features: [] });
    await this.send("Emulation.clearDeviceMetricsOverride");
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

/** Text of the element `id`, as an expression of the page. */
export const text = (id) => `document.getElementById(${JSON.stringify(id)}).textContent`;
/** Whether the element `id` is there to be seen. */
export const shown = (id) => `!document.getElementById(${JSON.stringify(id)}).hidden`;

/**
 * Opens the page at `url` in a browser of its own, takes the steps in turn and ends it. Fails with the first step that
 * does, or when the page had a fault that is not among the expected ones. A browser notes each answer of 400 as one.
 *
 * @param {{program: string, url: string, flags?: string[], ready: string, expected?: RegExp[]}} page `ready` is true once
 *   it can be used
 * @param {((page: Browser) => Promise<void>)[]} steps
 */
export async function walk({ program, url, flags, ready, expected = [] }, steps) {
  const page = await Browser.start(program, flags);
  try {
    await page.send("Page.navigate", { url });
    await page.until("the page is there", `document.readyState === "complete" && ${ready}`);
    for (const step of steps) {
      await step(page);
      console.log(`${step.name}: ok`);
    }
    assert.deepEqual(page.faults.filter((fault) => !expected.some((pattern) => pattern.test(fault))), []);
  } finally {
    await page.end();
  }
}
