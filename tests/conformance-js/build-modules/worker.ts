import { answer } from "./lib/answer";
import { shout } from "#text";
import Page from "./page";
import notes from "./notes.txt";
import page from "./page.html";
import numbers from "./numbers.json";

const enum Colour {
  Red = 1,
  Green,
}

export default {
  async fetch(): Promise<Response> {
    const { late } = await import("./lib/late");
    return Response.json({
      answer: answer(),
      shout: shout("quiet"),
      jsx: Page({ title: "A page" }),
      notes,
      page: page.includes("<title>"),
      sum: numbers.values.reduce((sum, value) => sum + value, 0),
      colour: Colour.Green,
      late,
    });
  },
} satisfies ExportedHandler;
