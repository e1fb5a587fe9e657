export default {
  async fetch(request) {
    const text = await request.text();
    let second;
    try {
      await request.text();
      second = "read twice";
    } catch (error) {
      second = error.name;
    }
    return Response.json({ length: text.length, text: text.slice(0, 20), bodyUsed: request.bodyUsed, second });
  },
};
