export default {
  async fetch(request) {
    try {
      const { a, b } = await request.json();
      return Response.json({ a, b });
    } catch (error) {
      return Response.json({ error: error.name }, { status: 400 });
    }
  },
};
