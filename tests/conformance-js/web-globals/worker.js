export default {
  async fetch() {
    const target = new EventTarget();
    let heard = 0;
    target.addEventListener("tick", () => (heard += 1), { once: true });
    target.dispatchEvent(new Event("tick"));
    target.dispatchEvent(new Event("tick"));

    const order = [];
    setTimeout(() => order.push("timeout"), 0);
    queueMicrotask(() => order.push("microtask"));
    order.push("sync");
    await new Promise((resolve) => setTimeout(resolve, 20));

    const timedOut = await new Promise((resolve) => {
      const signal = AbortSignal.timeout(10);
      signal.addEventListener("abort", () => resolve(signal.reason.name));
    });
    const interval = await new Promise((resolve) => {
      let ticks = 0;
      const id = setInterval(() => {
        ticks += 1;
        if (ticks === 3) {
          clearInterval(id);
          resolve(ticks);
        }
      }, 1);
    });
    return Response.json({
      agent: navigator.userAgent,
      base64: [btoa("abc"), atob("YWJj")],
      self: self === globalThis,
      now: Math.abs(Date.now() - new Date().getTime()) < 1000 && Date.now() > 1_700_000_000_000,
      performance: typeof performance.now(),
      heard,
      order,
      timedOut,
      interval,
      any: AbortSignal.any([AbortSignal.abort(), new AbortController().signal]).aborted,
      file: new File(["x"], "a.txt", { type: "text/plain" }).name,
      exception: new DOMException("message", "DataError").code,
    });
  },
};
