// The libraries that programs for Workers AI are written with, used as their documentation has it. The model says what
// it is told, so that a prompt decides what it answers, calls and writes.

import { runWithTools, tool as toolFor } from "@cloudflare/ai-utils";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import { Hono } from "hono";
import { cors } from "hono/cors";
import { streamText as streamedText, streamSSE } from "hono/streaming";
import { createWorkersAI } from "workers-ai-provider";
import { z } from "zod";

const MODEL = "@cf/meta/llama-3.1-8b-instruct";
const CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 40, "b": 2}}\n</tool_call>';

const app = new Hono();

app.use("/plain/*", cors());
app.use("*", async (c, next) => {
  c.set("provider", createWorkersAI({ binding: c.env.AI }));
  await next();
  c.header("x-middleware", "ran");
});

app.get("/plain/hello/:name", (c) => c.json({ hello: c.req.param("name"), q: c.req.query("q") }));
app.post("/plain/json", async (c) => c.json(await c.req.json(), 201));
app.post("/plain/form", async (c) => {
  const { name, file } = await c.req.parseBody();
  return c.json({ name, file: file.name, text: await file.text() });
});
app.get("/plain/words", (c) =>
  streamedText(c, async (stream) => {
    for (const word of ["one", "two"]) {
      await stream.writeln(word);
      await stream.sleep(200);
    }
  }),
);
app.get("/plain/events", (c) => streamSSE(c, (stream) => stream.writeSSE({ event: "tick", data: "1", id: "7" })));
app.get("/plain/throws", () => {
  throw new Error("on purpose");
});

app.get("/ai/text", async (c) => {
  const { text, usage, finishReason } = await generateText({ model: c.var.provider(MODEL), prompt: "say this back" });
  return c.json({ text, tokens: usage.totalTokens, finishReason });
});
app.get("/ai/stream", (c) =>
  streamText({ model: c.var.provider("slow"), prompt: "count", abortSignal: c.req.raw.signal }).toTextStreamResponse(),
);
app.get("/ai/object", async (c) => {
  const { object } = await generateObject({
    model: c.var.provider(MODEL),
    schema: z.object({ name: z.string(), year: z.number() }),
    prompt: '{"name": "robot", "year": 1920}',
  });
  return c.json(object);
});
app.get("/ai/tools", async (c) => {
  const { toolCalls, toolResults } = await generateText({
    model: c.var.provider(MODEL),
    tools: {
      add: tool({
        description: "Adds two numbers",
        inputSchema: z.object({ a: z.number(), b: z.number() }),
        execute: async ({ a, b }) => a + b,
      }),
    },
    prompt: CALL,
  });
  return c.json({
    calls: toolCalls.map((call) => [call.toolName, call.input]),
    results: toolResults.map((r) => r.output),
  });
});
app.get("/ai/embed", async (c) => {
  const model = c.var.provider.textEmbedding("@cf/baai/bge-small-en-v1.5");
  const { embeddings, values } = await embedMany({ model, values: ["a", "b", "c"] });
  return c.json({ values, lengths: embeddings.map((embedding) => embedding.length) });
});
app.get("/ai/refused", async (c) => {
  try {
    await generateText({ model: c.var.provider("full"), prompt: "a", maxRetries: 0 });
    return c.text("answered");
  } catch (error) {
    return c.json({ message: error.message });
  }
});

app.get("/utils/tools", async (c) => {
  let added;
  const add = toolFor({
    name: "add",
    description: "Adds two numbers",
    parameters: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } }, required: ["a", "b"] },
    function: async ({ a, b }) => {
      added = a + b;
      return String(added);
    },
  });
  const { response } = await runWithTools(c.env.AI, MODEL, {
    messages: [{ role: "user", content: CALL }],
    tools: [add],
  });
  return c.json({ added, response });
});

export default app;
