export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    const copy = request.clone();
    const bytes =
      pathname === "/blob"
        ? new Uint8Array(await (await request.blob()).arrayBuffer())
        : new Uint8Array(await request.arrayBuffer());
    return Response.json({ bytes: [...bytes], copy: (await copy.arrayBuffer()).byteLength });
  },
};
