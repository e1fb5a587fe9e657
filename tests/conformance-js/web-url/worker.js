export default {
  async fetch() {
    const url = new URL("../c/./d?x=1#frag", "https://user@example.com:8443/a/b/");
    url.searchParams.append("y", "a b&c");
    const pattern = new URLPattern({ pathname: "/users/:id/:action?" });
    const match = pattern.exec("https://example.com/users/42/edit");
    return Response.json({
      href: url.href,
      origin: url.origin,
      valid: [URL.canParse("https://a.b/"), URL.canParse("no url")],
      sorted: (() => {
        const parameters = new URLSearchParams("b=2&a=1&b=1");
        parameters.sort();
        return parameters.toString();
      })(),
      pattern: [pattern.test("https://example.com/users/1"), pattern.test("https://example.com/other")],
      groups: { id: match.pathname.groups.id, action: match.pathname.groups.action },
    });
  },
};
