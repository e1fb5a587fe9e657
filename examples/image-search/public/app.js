/** The page: shows what has been indexed, and what fits a text best first. Texts reach the page as text alone. */

import { look, search } from "./search.js";

const element = (id) => document.getElementById(id);
const [source, folder, files, progress, stop, form, query, searchButton, status, error, pictures] = [
  "source",
  "folder",
  "files",
  "progress",
  "stop",
  "form",
  "query",
  "search",
  "status",
  "error",
  "pictures",
].map(element);

/** What has been looked at, by name, size and time, so that a picture chosen twice is looked at once. */
const index = new Map();
/** Ends the looking under way; null when there is none. */
let running = null;

const key = (file) => [file.name, file.size, file.lastModified].join("\n");
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

/** An indexed picture, and its place on the page. */
function place(entry) {
  const item = document.createElement("li");
  const image = new Image();
  image.loading = "lazy";
  image.alt = entry.file.name;
  image.src = URL.createObjectURL(entry.file);
  const name = document.createElement("p");
  name.className = "name";
  name.textContent = entry.file.name;
  const score = document.createElement("p");
  score.className = "score";
  item.append(image, name, score);
  pictures.append(item);
  return { ...entry, item, score };
}

function showFault(message) {
  error.textContent = message;
  error.hidden = false;
}

function setBusy(busy) {
  const focused = document.activeElement;
  folder.disabled = files.disabled = busy;
  progress.hidden = stop.hidden = !busy;
  if (focused === stop) query.focus();
}

async function add(chosen) {
  if (running) return;
  const news = chosen.filter((file) => file.type.startsWith("image/") && !index.has(key(file)));
  const controller = (running = new AbortController());
  error.hidden = true;
  setBusy(true);
  const refused = [];
  let seen = 0;
  progress.max = Math.max(news.length, 1);
  progress.value = 0;
  try {
    await look(news, controller.signal, (file, entry) => {
      if (entry) index.set(key(file), place(entry));
      else refused.push(file.name);
      progress.value = ++seen;
      status.textContent = `Looked at ${seen} of ${count(news.length, "picture")}.`;
    });
    if (controller.signal.aborted) status.textContent = `Stopped after ${count(seen, "picture")}.`;
    else status.textContent = `${count(index.size, "picture")} can be found.`;
    if (refused.length > 0) showFault(`These cannot be read as pictures: ${refused.join(", ")}`);
    else if (news.length === 0 && index.size === 0) showFault("There is no picture among these files.");
  } catch (fault) {
    // The others that are on their way are of no use any more.
    controller.abort();
    status.textContent = "";
    showFault(fault.message);
  } finally {
    running = null;
    setBusy(false);
    searchButton.disabled = index.size === 0;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (index.size === 0) return;
  error.hidden = true;
  searchButton.disabled = true;
  try {
    const found = await search(query.value.trim(), [...index.values()]);
    for (const { entry, score } of found) entry.score.textContent = score.toFixed(3);
    pictures.replaceChildren(...found.map(({ entry }) => entry.item));
    status.textContent = `${count(found.length, "picture")}, the one that fits “${query.value.trim()}” best first.`;
  } catch (fault) {
    showFault(fault.message);
  } finally {
    searchButton.disabled = false;
  }
});

for (const input of [folder, files]) {
  input.addEventListener("change", async () => {
    const chosen = [...input.files];
    // The same ones can be chosen again.
    input.value = "";
    await add(chosen);
  });
}

source.addEventListener("dragover", (event) => event.preventDefault());
source.addEventListener("drop", (event) => {
  event.preventDefault();
  add([...event.dataTransfer.files]);
});

stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
