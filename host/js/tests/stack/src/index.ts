import { divide } from "./lib/divide";

interface Numbers {
  a: bigint;
  b: bigint;
}

export default {
  async fetch(request: Request): Promise<Response> {
    const numbers: Numbers = { a: 1n, b: BigInt(new URL(request.url).searchParams.get("b") ?? 0) };
    return new Response(String(divide(numbers.a, numbers.b)));
  },
};
