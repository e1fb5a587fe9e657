const answers = {
  "/nothing": () => undefined,
  "/string": () => "a string",
  "/object": () => ({ status: 200 }),
  "/promise": () => Promise.resolve(null),
};

export default {
  async fetch(request) {
    return answers[new URL(request.url).pathname]();
  },
};
