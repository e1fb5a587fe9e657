// Asks the worker for a picture, and shows it before the older ones.

const element = (id) => document.getElementById(id);
const [form, prompt, status, error, pictures] = ["form", "prompt", "status", "error", "pictures"].map(element);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = prompt.value;
  const button = form.querySelector("button");
  button.disabled = true;
  error.textContent = "";
  status.textContent = "Drawing…";
  const began = performance.now();
  try {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const reply = await fetch(`/api/draw?${new URLSearchParams({ prompt: text, seed })}`);
    if (!reply.ok) throw new Error((await reply.json()).error);
    const image = new Image();
    image.alt = text;
    image.src = URL.createObjectURL(await reply.blob());
    await image.decode();
    const item = document.createElement("li");
    item.append(image, text);
    pictures.prepend(item);
    status.textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  } catch (fault) {
    status.textContent = "";
    error.textContent = fault.message;
  } finally {
    button.disabled = false;
  }
});
