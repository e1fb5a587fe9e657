export default {
  async fetch(request) {
    const form = await request.formData();
    const entries = [];
    for (const [name, value] of form) {
      entries.push(typeof value === "string" ? [name, value] : [name, value.name, value.type, await value.text()]);
    }
    return Response.json(entries);
  },
};
