/** The page: keeps the conversation, shows it, and asks for the next answer. Texts reach the page as text alone. */

import { answer } from "./answer.js";

const element = (id) => document.getElementById(id);
const [list, empty, form, question, send, stop, status, fault, faultText, retry] = [
  "messages",
  "empty",
  "form",
  "question",
  "send",
  "stop",
  "status",
  "error",
  "error-text",
  "retry",
].map(element);
const scroller = document.querySelector("main");

/** The conversation as the model gets it. An answer that was stopped is part of it, one that failed is not. */
let messages = [];
/** Ends the answer that is being written; null when none is. */
let running = null;

function show(role, content) {
  const item = document.createElement("li");
  item.className = `message ${role}`;
  const who = document.createElement("p");
  who.className = "who";
  who.textContent = role === "user" ? "You" : "Assistant";
  const text = document.createElement("p");
  text.className = "text";
  text.textContent = content;
  item.append(who, text);
  list.append(item);
  empty.hidden = true;
  return { item, text };
}

function note(item, words) {
  const line = document.createElement("p");
  line.className = "note";
  line.textContent = words;
  item.append(line);
}

/** Whether the reader is at the end; whoever scrolled up to read is left there. */
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
const toEnd = () => scroller.scrollTo({ top: scroller.scrollHeight });

function setBusy(busy) {
  // The button that has the focus is about to vanish; the focus would be lost with it.
  const focused = document.activeElement;
  send.hidden = busy;
  stop.hidden = !busy;
  list.setAttribute("aria-busy", String(busy));
  if (focused === send || focused === stop) question.focus();
}

function showFault(message) {
  faultText.textContent = message;
  fault.hidden = false;
  toEnd();
}

async function ask() {
  const asked = messages;
  const controller = new AbortController();
  running = controller;
  fault.hidden = true;
  setBusy(true);
  status.textContent = "The answer is being written.";
  const { item, text } = show("assistant", "");
  item.classList.add("writing");
  toEnd();
  let written = "";
  const keep = () => messages.push({ role: "assistant", content: written });
  try {
    for await (const piece of answer(asked, controller.signal)) {
      const follow = atEnd();
      written += piece;
      text.textContent = written;
      if (follow) toEnd();
    }
    if (messages !== asked) return;
    if (written.trim() === "") note(item, "The model had nothing to say.");
    else keep();
    status.textContent = "The answer is complete.";
  } catch (error) {
    // A new conversation was begun meanwhile: the old one's end is nobody's concern.
    if (messages !== asked) return;
    if (controller.signal.aborted) {
      note(item, "Stopped.");
      if (written.trim() !== "") keep();
      status.textContent = "The answer was stopped.";
    } else {
      if (written === "") item.remove();
      else note(item, "The answer broke off.");
      status.textContent = "";
      showFault(error.message);
    }
  } finally {
    item.classList.remove("writing");
    if (running === controller) {
      running = null;
      setBusy(false);
    }
  }
}

function submit() {
  const content = question.value.trim();
  if (content === "" || running) return;
  // A question that got no answer is asked anew by the next one, not twice in a row.
  if (messages.at(-1)?.role === "user") messages.pop();
  messages.push({ role: "user", content });
  show("user", content);
  question.value = "";
  resize();
  ask();
}

function resize() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight + 2}px`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});

question.addEventListener("input", resize);
question.addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter belongs to it.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

stop.addEventListener("click", () => running?.abort());

retry.addEventListener("click", () => {
  if (!running && messages.at(-1)?.role === "user") ask();
  question.focus();
});

element("new").addEventListener("click", () => {
  messages = [];
  running?.abort();
  list.replaceChildren();
  fault.hidden = true;
  empty.hidden = false;
  status.textContent = "";
  question.focus();
});
