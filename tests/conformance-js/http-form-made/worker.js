export default {
  async fetch() {
    const form = new FormData();
    form.append("a", "1");
    form.append('quoted "name"', "zwei");
    form.append("file", new File([new Uint8Array([0, 255, 13, 10, 45, 45])], 'n"1.bin'));
    const request = new Request("http://example.com/", { method: "POST", body: form });
    const type = request.headers.get("content-type").startsWith("multipart/form-data; boundary=");
    const entries = [];
    for (const [name, value] of await request.formData()) {
      if (typeof value === "string") entries.push([name, value]);
      else entries.push([name, value.name, value.type, [...new Uint8Array(await value.arrayBuffer())]]);
    }
    const caught = (response) => response.formData().then(String, (error) => error.name);
    return Response.json({
      type,
      entries,
      refused: await caught(new Response("a=1", { headers: { "content-type": "text/plain" } })),
      cut: await caught(
        new Response('--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nhalf', {
          headers: { "content-type": "multipart/form-data; boundary=b" },
        }),
      ),
    });
  },
};
