// Answers questions with the help of tools: the model says what to call, the worker calls it and tells the model, until it
// has an answer.

import { generateText, stepCountIs, tool } from "ai";
import { createWorkersAI } from "workers-ai-provider";
import { z } from "zod";

const MODEL = "@cf/meta/llama-3.1-8b-instruct";

const LONGEST = 2000;

/** How often the model is asked for one question. */
const STEPS = 4;

const PLANETS: Record<string, { dayHours: number; moons: number }> = {
  mercury: { dayHours: 4222.6, moons: 0 },
  venus: { dayHours: 2802, moons: 0 },
  earth: { dayHours: 24, moons: 1 },
  mars: { dayHours: 24.7, moons: 2 },
  jupiter: { dayHours: 9.9, moons: 97 },
};

const tools = {
  planet: tool({
    description: "The length of a planet's day in hours and the number of its moons",
    inputSchema: z.object({ name: z.enum(["mercury", "venus", "earth", "mars", "jupiter"]) }),
    execute: async ({ name }) => PLANETS[name],
  }),
  divide: tool({
    description: "Divides one number by another",
    inputSchema: z.object({ a: z.number(), b: z.number() }),
    execute: async ({ a, b }) => (b === 0 ? "cannot divide by zero" : a / b),
  }),
};

const USAGE = `Ask about planets:
  curl -d 'How many days of Jupiter fit into a day of Earth?' http://agent.localhost:8787/
`;

export default {
  async fetch(request, env): Promise<Response> {
    if (request.method !== "POST") return new Response(USAGE, { status: 405, headers: { allow: "POST" } });
    const question = (await request.text()).trim();
    if (question === "" || question.length > LONGEST) {
      return new Response(`The question must have 1 to ${LONGEST} characters.\n${USAGE}`, { status: 400 });
    }
    const { text, steps } = await generateText({
      model: createWorkersAI({ binding: env.AI })(MODEL),
      system: "You answer questions about planets. Look facts up and calculate with the tools.",
      prompt: question,
      tools,
      stopWhen: stepCountIs(STEPS),
      maxRetries: 1,
    });
    const calls = steps.flatMap((step) =>
      step.toolResults.map(({ toolName, input, output }) => ({ tool: toolName, input, output })),
    );
    return Response.json({ answer: text, calls });
  },
} satisfies ExportedHandler<{ AI: Ai }>;
