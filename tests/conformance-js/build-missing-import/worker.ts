import { answer } from "./answers";

export default {
  async fetch(): Promise<Response> {
    return new Response(answer);
  },
};
