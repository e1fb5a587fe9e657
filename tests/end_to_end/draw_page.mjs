/**
 * Uses the page of examples/draw as a person does, in a headless Chromium: asks for a picture and sees it come, asks for
 * the same again, stops a drawing, and is told what went wrong.
 *
 *     node draw_page.mjs CHROMIUM URL
 */

import assert from "node:assert/strict";
import { shown, text, walk } from "./browser.mjs";

const DRAWN = `${text("status")}.startsWith("Drawn in ") && ${shown("draw")}`;
const PICTURES = `document.querySelectorAll("#pictures li")`;

/** The picture `at`, newest first: a hash of its pixels, its size, and what stands below it. */
const picture = (at) => `(async () => {
  const item = ${PICTURES}[${at}];
  const image = item.querySelector("img");
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const { className } = item;
  const facts = item.querySelector(".facts").textContent;
  const caption = item.querySelector(".caption").textContent;
  return { hash: hash.toHex?.() ?? [...hash].join(), width: canvas.width, className, facts, caption, alt: image.alt };
})()`;

const fill = (page, id, value) =>
  page.value(`(() => {
    const input = document.getElementById(${JSON.stringify(id)});
    input.value = ${JSON.stringify(value)};
    input.dispatchEvent(new Event("input", { bubbles: true }));
  })()`);

async function drawAndWait(page) {
  await page.press("Enter");
  await page.until("the drawing begins", `!(${DRAWN})`);
  await page.until("the picture is drawn", DRAWN);
}

async function aSketchComesFirstAndThenThePicture(page) {
  // What stood below the picture, and whether it was marked as a sketch, at every change.
  await page.value(`
    globalThis.stages = new Set();
    new MutationObserver(() => {
      const item = ${PICTURES}[0];
      if (item) stages.add(item.className + "|" + item.querySelector(".facts").textContent);
    }).observe(document.getElementById("pictures"), {
      childList: true, subtree: true, characterData: true, attributes: true,
    });
  `);
  await fill(page, "seed", "3");
  await page.press("Enter");
  await page.until("the picture is drawn", DRAWN);
  assert.deepEqual(
    (await page.value("[...stages]")).filter((stage) => !stage.endsWith("|")),
    ["sketch|a sketch of 5 steps", "|20 steps, seed 3"].filter((stage) => stage),
  );
  const { width, alt, caption } = await page.value(picture(0));
  assert.deepEqual([width, alt, caption], [64, "a red circle on a blue background", alt]);
  await page.picture("draw");
}

async function theSeedDecidesThePicture(page) {
  const first = await page.value(picture(0));
  await drawAndWait(page);
  assert.deepEqual(await page.value(picture(0)), first);
  await fill(page, "seed", "4");
  await drawAndWait(page);
  const other = await page.value(picture(0));
  assert.notEqual(other.hash, first.hash);
  assert.equal(await page.value(`${PICTURES}.length`), 3);
  // An older picture's settings are taken up again.
  await page.value(`${PICTURES}[2].querySelector("button").click()`);
  assert.equal(await page.value(`document.getElementById("seed").value`), "3");
  assert.equal(await page.value("document.activeElement.id"), "prompt");
}

async function fewStepsNeedNoSketch(page) {
  await fill(page, "steps", "3");
  assert.equal(await page.value(text("steps-shown")), "3");
  await fill(page, "prompt", `a blue square <img src=x onerror="globalThis.hit = true">`);
  await drawAndWait(page);
  const { facts, className, caption } = await page.value(picture(0));
  assert.deepEqual([facts, className], ["3 steps, seed 3", ""]);
  assert.match(caption, /<img src=x/);
  assert.equal(await page.value("globalThis.hit"), undefined);
}

async function escapeStops(page) {
  const before = await page.value(`${PICTURES}.length`);
  // Pressed inside the page, in the same turn, so that the drawing cannot end before.
  await page.value(`
    document.getElementById("form").requestSubmit();
    document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  `);
  await page.until("the drawing is stopped", `${text("status")} === "The drawing was stopped."`);
  assert.ok(await page.value(`${shown("draw")} && !${shown("stop")} && !${shown("error")}`));
  assert.equal(await page.value(`${PICTURES}.length`), before);
}

async function faultsAreShown(page) {
  await page.offline(async () => {
    await page.press("Enter");
    await page.until("the fault is shown", shown("error"));
  });
  assert.match(await page.value(text("error")), /cannot be reached/);
  // What the page itself would not send: the worker says what is wrong with it.
  await page.value(`document.getElementById("prompt").removeAttribute("maxlength")`);
  await fill(page, "prompt", "x".repeat(501));
  await page.press("Enter");
  await page.until("the refusal is shown", `${shown("error")} && ${text("error")}.includes("500 characters")`);
  await page.picture("draw-fault");
  await fill(page, "prompt", "a green triangle");
  await drawAndWait(page);
  assert.equal(await page.value(shown("error")), false);
}

const [program, url] = process.argv.slice(2);
await walk({ program, url, ready: `document.activeElement?.id === "prompt"`, expected: [/status of 400/] }, [
  aSketchComesFirstAndThenThePicture,
  theSeedDecidesThePicture,
  fewStepsNeedNoSketch,
  escapeStops,
  faultsAreShown,
]);
