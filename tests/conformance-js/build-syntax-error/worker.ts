const greeting: string = "hello";

export default {
  async fetch(): Promise<Response> {
    return new Response(greeting));
  },
};
