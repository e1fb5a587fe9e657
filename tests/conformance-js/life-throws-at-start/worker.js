const settings = JSON.parse("{ not json");

export default {
  async fetch() {
    return Response.json(settings);
  },
};
