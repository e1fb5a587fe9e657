export default {
  async fetch(request) {
    let bytes = 0;
    let sum = 0;
    let chunks = 0;
    for await (const chunk of request.body) {
      bytes += chunk.byteLength;
      chunks += 1;
      for (const byte of chunk) sum = (sum + byte) % 65521;
    }
    return Response.json({ bytes, sum, several: chunks > 1 });
  },
};
