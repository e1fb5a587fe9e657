export default {
  async fetch() {
    return new Response("not interested");
  },
};
