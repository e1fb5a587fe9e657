export default {
  async fetch() {
    try {
      const response = await fetch("http://127.0.0.1:9/");
      return new Response(`answered ${response.status}`);
    } catch (error) {
      return Response.json({ isError: error instanceof Error });
    }
  },
};
