export default {
  async fetch() {
    const headers = new Headers();
    headers.append("set-cookie", "a=1; Path=/, x");
    headers.append("set-cookie", "b=2; Expires=Wed, 21 Oct 2026 07:28:00 GMT");
    return new Response("cookies", { headers });
  },
};
