/** Records the microphone. Knows nothing of the page. */

/**
 * Begins to record.
 *
 * @param {(seconds: number) => void} tell told at the start and once a second how long it has lasted
 * @returns {Promise<{sound: Promise<Blob>, stop: () => void}>} `sound` is there once it was stopped
 * @throws {Error} when there is no microphone, or it may not be used
 */
export async function record(tell) {
  // Browsers have it on pages from this machine, or over HTTPS.
  if (!navigator.mediaDevices) throw new Error("this page is not from a trustworthy address");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
  let seconds = 0;
  tell(seconds);
  const clock = setInterval(() => tell(++seconds), 1000);
  const sound = new Promise((resolve) => {
    recorder.addEventListener("stop", () => {
      clearInterval(clock);
      for (const track of stream.getTracks()) track.stop();
      resolve(new Blob(pieces, { type: recorder.mimeType }));
    });
  });
  recorder.start();
  return { sound, stop: () => recorder.state !== "inactive" && recorder.stop() };
}
