import add from "./add.wasm";

const instance = new WebAssembly.Instance(add);

export default {
  async fetch() {
    return Response.json({ module: add instanceof WebAssembly.Module, sum: instance.exports.add(40, 2) });
  },
};
