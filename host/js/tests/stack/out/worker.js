// src/lib/divide.ts
function divide(a, b) {
  return (
    /* é😀 */
    a / b
  );
}

// src/index.ts
var index_default = {
  async fetch(request) {
    const numbers = { a: 1n, b: BigInt(new URL(request.url).searchParams.get("b") ?? 0) };
    return new Response(String(divide(numbers.a, numbers.b)));
  }
};
export {
  index_default as default
};
//# sourceMappingURL=worker.js.map
