/**
 * Asks the worker for a picture and shows it before the older ones: first a sketch, which is drawn in a quarter of the
 * steps, then the picture itself in its place. Texts reach the page as text alone.
 */

const element = (id) => document.getElementById(id);
const [form, prompt, steps, stepsShown, seed, draw, stop, status, error, pictures] = [
  "form",
  "prompt",
  "steps",
  "steps-shown",
  "seed",
  "draw",
  "stop",
  "status",
  "error",
  "pictures",
].map(element);

/** More pictures than this are let go of, the oldest first. */
const MOST_PICTURES = 60;
/** A drawing of fewer steps is its own sketch. */
const STEPS_WORTH_A_SKETCH = 8;

/** Ends the drawing under way; null when there is none. */
let running = null;

/** The picture that the worker draws, as a URL of this page. */
async function drawn(wish, signal) {
  let reply;
  try {
    reply = await fetch(`/api/draw?${new URLSearchParams(wish)}`, { signal });
  } catch (fault) {
    if (signal.aborted) throw fault;
    throw new Error("The host cannot be reached. Is it running?", { cause: fault });
  }
  if (!reply.ok) throw new Error(await reason(reply));
  return URL.createObjectURL(await reply.blob());
}

/** Why a picture was refused: the worker's words, the host's error page, or the status. */
async function reason(reply) {
  try {
    const { error } = await reply.json();
    const message = typeof error === "string" ? error : error.message;
    if (typeof message === "string" && message !== "") return message;
  } catch {
    // No JSON: the status has to do.
  }
  return `The host answered with status ${reply.status}.`;
}

/** A place for the pictures of one wish. */
function frame(wish) {
  const item = document.createElement("li");
  const image = new Image();
  image.alt = wish.prompt;
  const caption = document.createElement("p");
  caption.className = "caption";
  caption.textContent = wish.prompt;
  const facts = document.createElement("p");
  facts.className = "facts";
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Use these settings";
  again.addEventListener("click", () => {
    [prompt.value, steps.value, seed.value] = [wish.prompt, wish.steps, wish.seed];
    stepsShown.value = wish.steps;
    prompt.focus();
  });
  item.append(image, caption, facts, again);
  return { item, image, facts };
}

async function show(image, url) {
  const before = image.src;
  image.src = url;
  await image.decode();
  if (before) URL.revokeObjectURL(before);
}

async function fulfil(wish, signal) {
  const { item, image, facts } = frame(wish);
  const sketch = Math.ceil(wish.steps / 4);
  if (wish.steps >= STEPS_WORTH_A_SKETCH) {
    const url = await drawn({ ...wish, steps: sketch }, signal);
    item.classList.add("sketch");
    pictures.prepend(item);
    await show(image, url);
    facts.textContent = `a sketch of ${sketch} steps`;
    status.textContent = `Drawing in ${wish.steps} steps; this is a sketch of ${sketch}.`;
  }
  await show(image, await drawn(wish, signal));
  item.classList.remove("sketch");
  if (!item.isConnected) pictures.prepend(item);
  facts.textContent = `${wish.steps} ${wish.steps === 1 ? "step" : "steps"}, seed ${wish.seed}`;
}

function setBusy(busy) {
  // The button that has the focus is about to vanish; the focus would be lost with it.
  const focused = document.activeElement;
  draw.hidden = busy;
  stop.hidden = !busy;
  pictures.setAttribute("aria-busy", String(busy));
  if (focused === draw || focused === stop) prompt.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  const controller = (running = new AbortController());
  const chosen = seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(seed.value);
  const wish = { prompt: prompt.value.trim(), steps: Number(steps.value), seed: chosen };
  error.hidden = true;
  setBusy(true);
  status.textContent = `Drawing in ${wish.steps} steps…`;
  const began = performance.now();
  try {
    await fulfil(wish, controller.signal);
    status.textContent = `Drawn in ${((performance.now() - began) / 1000).toFixed(1)} s.`;
    for (const old of [...pictures.children].slice(MOST_PICTURES)) {
      URL.revokeObjectURL(old.querySelector("img").src);
      old.remove();
    }
  } catch (fault) {
    status.textContent = controller.signal.aborted ? "The drawing was stopped." : "";
    if (!controller.signal.aborted) {
      error.textContent = fault.message;
      error.hidden = false;
    }
  } finally {
    running = null;
    setBusy(false);
  }
});

steps.addEventListener("input", () => (stepsShown.value = steps.value));
stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
