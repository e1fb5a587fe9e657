// Sends a file, or what the microphone heard, to the worker and shows what was said.

const element = (id) => document.getElementById(id);
const [file, record, status, error, text, vtt] = ["file", "record", "status", "error", "text", "vtt"].map(element);

async function transcribe(sound) {
  error.textContent = text.textContent = "";
  vtt.hidden = true;
  status.textContent = "Listening…";
  const began = performance.now();
  try {
    const reply = await fetch("/api/transcribe", { method: "POST", body: sound });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(answer.error);
    text.textContent = answer.text;
    vtt.href = URL.createObjectURL(new Blob([answer.vtt], { type: "text/vtt" }));
    vtt.hidden = false;
    status.textContent = `${answer.word_count} words in ${((performance.now() - began) / 1000).toFixed(1)} s`;
  } catch (fault) {
    status.textContent = "";
    error.textContent = fault.message;
  }
}

file.addEventListener("change", () => file.files[0] && transcribe(file.files[0]));

let recorder;
record.addEventListener("click", async () => {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = ({ data }) => pieces.push(data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = undefined;
      record.textContent = "Record";
      transcribe(new Blob(pieces));
    };
    recorder.start();
    record.textContent = "Stop";
  } catch (fault) {
    error.textContent = `The microphone cannot be used: ${fault.message}`;
  }
});
