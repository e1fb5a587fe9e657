interface Order {
  item?: { price: number };
}

function total(order: Order): number {
  return order.item!.price;
}

export default {
  async fetch(request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/text") throw "only a text";
    if (pathname === "/later") {
      await Promise.resolve();
      throw new Error("thrown after a wait");
    }
    if (pathname === "/cause") throw new Error("outside", { cause: new Error("inside") });
    return Response.json(total({}));
  },
} satisfies ExportedHandler;
