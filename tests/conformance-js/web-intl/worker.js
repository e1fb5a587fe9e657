export default {
  async fetch() {
    const date = new Date(Date.UTC(2025, 0, 2, 3, 4, 5));
    return Response.json({
      number: (1234567.891).toLocaleString("en-US"),
      day: date.toLocaleDateString("en-US", { timeZone: "UTC" }),
      sorted: ["b", "a", "C"].sort((x, y) => x.localeCompare(y)),
      normal: "e\u0301".normalize("NFC").length,
      zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    });
  },
};
