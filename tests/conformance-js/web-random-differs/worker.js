const atStart = Math.random();

export default {
  async fetch() {
    return new Response(`${crypto.randomUUID()} ${Math.random()} ${atStart}`);
  },
};
