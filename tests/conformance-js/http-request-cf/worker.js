export default {
  async fetch(request) {
    const ip = request.headers.get("CF-Connecting-IP") ?? "unknown";
    return Response.json({ country: request.cf?.country ?? "nowhere", ip });
  },
};
