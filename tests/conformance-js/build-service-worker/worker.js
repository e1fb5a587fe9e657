addEventListener("fetch", (event) => {
  event.respondWith(new Response("an old worker"));
});
