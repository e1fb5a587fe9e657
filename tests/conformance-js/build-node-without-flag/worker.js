import { readFileSync } from "node:fs";

export default {
  async fetch() {
    return new Response(readFileSync("a.txt"));
  },
};
