/**
 * Sends a file, or what the microphone heard, to the worker and shows what was said, word by word beside the sound.
 * Texts reach the page as text alone.
 */

import { record } from "./recorder.js";

const element = (id) => document.getElementById(id);
const [source, file, recordButton, stop, status, error, result, player, text, vtt] = [
  "source",
  "file",
  "record",
  "stop",
  "status",
  "error",
  "result",
  "sound",
  "text",
  "vtt",
].map(element);

/** Ends the transcription under way; null when there is none. */
let running = null;
/** What is being recorded; null when nothing is. */
let recording = null;

async function transcript(sound, signal) {
  let reply;
  try {
    reply = await fetch("/api/transcribe", { method: "POST", body: sound, signal });
  } catch (fault) {
    if (signal.aborted) throw fault;
    throw new Error("The host cannot be reached. Is it running?", { cause: fault });
  }
  if (!reply.ok) throw new Error(await reason(reply));
  return reply.json();
}

/** Why sound was refused: the worker's words, the host's error page, or the status. */
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

/** A word that plays the sound from where it is said. */
function button({ word, start }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "word";
  button.textContent = word;
  button.addEventListener("click", () => {
    player.currentTime = start;
    player.play().catch(() => {});
  });
  return button;
}

function replaceUrl(target, property, blob) {
  if (target[property]) URL.revokeObjectURL(target[property]);
  target[property] = URL.createObjectURL(blob);
}

function show(answer, sound) {
  replaceUrl(player, "src", sound);
  replaceUrl(vtt, "href", new Blob([answer.vtt], { type: "text/vtt" }));
  // Without times the text has to do.
  const words = answer.words ?? [];
  text.replaceChildren(...(words.length > 0 ? words.flatMap((word) => [button(word), " "]) : [answer.text]));
  if (answer.text === "") text.textContent = "Nothing was heard.";
  result.hidden = false;
}

function showFault(message) {
  status.textContent = "";
  error.textContent = message;
  error.hidden = false;
}

function setBusy(busy) {
  const focused = document.activeElement;
  file.disabled = recordButton.disabled = busy;
  stop.hidden = !busy;
  if (focused === stop) file.focus();
}

async function transcribe(sound) {
  if (running) return;
  const controller = (running = new AbortController());
  player.pause();
  error.hidden = result.hidden = true;
  setBusy(true);
  status.textContent = "Listening…";
  const began = performance.now();
  try {
    const answer = await transcript(sound, controller.signal);
    show(answer, sound);
    const count = answer.word_count === 1 ? "1 word" : `${answer.word_count} words`;
    status.textContent = `${count} in ${((performance.now() - began) / 1000).toFixed(1)} s.`;
  } catch (fault) {
    if (controller.signal.aborted) status.textContent = "The transcription was stopped.";
    else showFault(fault.message);
  } finally {
    running = null;
    setBusy(false);
  }
}

file.addEventListener("change", async () => {
  const [chosen] = file.files;
  if (chosen) await transcribe(chosen);
  // The same file can be chosen again.
  file.value = "";
});

recordButton.addEventListener("click", async () => {
  if (recording) return recording.stop();
  error.hidden = true;
  try {
    recording = await record((seconds) => (status.textContent = `Recording, ${seconds} s.`));
  } catch (fault) {
    return showFault(`The microphone cannot be used: ${fault.message}`);
  }
  recordButton.textContent = "Finish";
  recordButton.setAttribute("aria-pressed", "true");
  file.disabled = true;
  const sound = await recording.sound;
  recording = null;
  recordButton.textContent = "Record";
  recordButton.setAttribute("aria-pressed", "false");
  await transcribe(sound);
});

stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  recording?.stop();
  running?.abort();
});

source.addEventListener("dragover", (event) => event.preventDefault());
source.addEventListener("drop", (event) => {
  event.preventDefault();
  const [dropped] = event.dataTransfer.files;
  if (dropped && !recording) transcribe(dropped);
});
