const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export default {
  async fetch() {
    const data = new TextEncoder().encode("abc");
    const key = await crypto.subtle.importKey(
      "raw",
      new TextEncoder().encode("key"),
      { name: "HMAC", hash: "SHA-256" },
      false,
      ["sign", "verify"],
    );
    const signature = await crypto.subtle.sign("HMAC", key, data);
    const random = crypto.getRandomValues(new Uint8Array(16));
    return Response.json({
      sha1: hex(await crypto.subtle.digest("SHA-1", data)),
      sha256: hex(await crypto.subtle.digest({ name: "SHA-256" }, data)),
      hmac: hex(signature),
      verified: await crypto.subtle.verify("HMAC", key, signature, data),
      forged: await crypto.subtle.verify("HMAC", key, signature, new TextEncoder().encode("abd")),
      uuid: /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()),
      random: random.some((byte) => byte !== 0),
    });
  },
};
