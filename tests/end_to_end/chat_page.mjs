/**
 * Uses the page of examples/chat-ui as a person does, in a headless Chromium: asks, watches the answer grow, stops one,
 * loses the network and tries again.
 *
 *     node chat_page.mjs CHROMIUM URL
 */

import assert from "node:assert/strict";
import { shown, text, walk } from "./browser.mjs";

const COMPLETE = `${text("status")} === "The answer is complete."`;
const ANSWERS = `[...document.querySelectorAll(".assistant .text")].map((text) => text.textContent)`;

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
  await page.until("the answer is stopped", `${text("status")} === "The answer was stopped."`);
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
  await page.offline(async () => {
    await ask(page, "What is the capital of France?");
    await page.until("the fault is shown", shown("error"));
  });
  assert.match(await page.value(text("error-text")), /cannot be reached/);
  await page.value(`document.getElementById("retry").click()`);
  await page.until("the answer is complete", COMPLETE);
  assert.equal(await page.value(shown("error")), false);
  assert.deepEqual((await page.value(ANSWERS)).map((text) => text !== ""), [true]);
}

const [program, url] = process.argv.slice(2);
await walk({ program, url, ready: `document.activeElement?.id === "question"` }, [
  answersGrow,
  escapeStops,
  newChatEmptiesThePage,
  lostNetworkIsSaidAndRetried,
]);
