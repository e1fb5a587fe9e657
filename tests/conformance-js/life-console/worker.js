class Point {
  constructor(x, y) {
    this.x = x;
    this.y = y;
  }
}

export default {
  async fetch() {
    console.debug("a debug line");
    console.log("a %s with %d and", "format", 42, { nested: { deep: [1, 2] } });
    console.info("an info line", true, null, undefined, 10n);
    console.warn("a warning", new Point(1, 2));
    console.error(new Error("an error object"));
    console.log("two\nlines", new Map([["key", 1]]), new Set(["one"]));
    return new Response("logged");
  },
};
