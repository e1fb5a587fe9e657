/**
 * Uses the page of examples/image-search as a person does, in a headless Chromium: indexes pictures, searches them, stops,
 * and is told what went wrong. The model is a tiny one whose scores mean nothing: they are compared with the worker's.
 *
 *     node image_search_page.mjs CHROMIUM URL PICTURES
 *
 * PICTURES is a folder with `cat.png`, `cat.jpg` and `tall.png`.
 */

import assert from "node:assert/strict";
import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { shown, text, walk } from "./browser.mjs";

const NAMES = ["cat.jpg", "cat.png", "tall.png"];

const IDLE = `!${shown("stop")}`;
const SHOWN = `[...document.querySelectorAll("#pictures li")].map((item) => ({
  name: item.querySelector(".name").textContent,
  score: item.querySelector(".score").textContent,
}))`;

async function main(program, url, pictures) {
  const folder = await mkdtemp(join(tmpdir(), "host-image-search-page-"));
  const broken = join(folder, "broken.png");

  async function aFolderIsIndexed(page) {
    assert.ok(await page.value(`document.getElementById("search").disabled`));
    await page.choose("#folder", [folder]);
    await page.until("the pictures are indexed", `${text("status")} === "3 pictures can be found."`);
    assert.deepEqual((await page.value(SHOWN)).map(({ name }) => name).sort(), NAMES);
    assert.match(await page.value(text("error")), /cannot be read as pictures: broken\.png$/);
    // What is chosen again is known.
    await page.choose("#files", [join(folder, "cat.png")]);
    await page.until("nothing is new", `${IDLE} && !${shown("error")}`);
  }

  async function theBestFitComesFirst(page) {
    await page.value(`document.getElementById("query").focus()`);
    await page.type("two dogs");
    await page.press("Enter");
    await page.until("it has been searched", `${text("status")}.includes("“two dogs”")`);
    const found = await page.value(SHOWN);
    const product = await page.value(`(async () => {
      const vector = async (path, options) => (await (await fetch(path, options)).json()).vector;
      const text = await vector("/api/text?q=two+dogs");
      const products = {};
      for (const item of document.querySelectorAll("#pictures li")) {
        const body = await (await fetch(item.querySelector("img").src)).blob();
        const picture = await vector("/api/picture", { method: "POST", body });
        const sum = picture.reduce((sum, value, at) => sum + value * text[at], 0);
        products[item.querySelector(".name").textContent] = sum.toFixed(3);
      }
      return products;
    })()`);
    assert.deepEqual(Object.fromEntries(found.map(({ name, score }) => [name, score])), product);
    const scores = found.map(({ score }) => Number(score));
    assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
    assert.equal(new Set(scores).size > 1, true);
    await page.picture("image-search");
  }

  async function escapeStops(page) {
    // Pressed inside the page as soon as the pictures are on their way, so that they cannot be done before.
    await page.value("globalThis.before = true");
    await page.send("Page.reload");
    await page.until("the page is there", `!globalThis.before && document.readyState === "complete"`);
    await page.value(`
      new MutationObserver((_, observer) => {
        if (${IDLE}) return;
        observer.disconnect();
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
      }).observe(document.getElementById("stop"), { attributes: true });
    `);
    await page.choose("#files", NAMES.map((name) => join(folder, name)));
    await page.until("it is stopped", `${text("status")} === "Stopped after 0 pictures."`);
    assert.ok(await page.value(`!${shown("error")} && document.getElementById("search").disabled`));
  }

  async function faultsAreShown(page) {
    await page.offline(async () => {
      await page.choose("#files", [join(folder, "cat.png")]);
      await page.until("the fault is shown", shown("error"));
    });
    assert.match(await page.value(text("error")), /cannot be reached/);
    await page.picture("image-search-fault");
    await page.choose("#files", [join(folder, "cat.png")]);
    await page.until("it is tried again", `${text("status")} === "1 picture can be found."`);
    assert.equal(await page.value(shown("error")), false);
  }

  try {
    for (const name of NAMES) await copyFile(join(pictures, name), join(folder, name));
    await writeFile(broken, "no picture at all");
    // The browser notes each refusal as an error of the page: the broken file is looked at once.
    const steps = [aFolderIsIndexed, theBestFitComesFirst, escapeStops, faultsAreShown];
    await walk({ program, url, ready: shown("query"), expected: [/status of 400/] }, steps);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const [program, url, pictures] = process.argv.slice(2);
await main(program, url, pictures);
