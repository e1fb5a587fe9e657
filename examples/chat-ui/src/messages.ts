/** Reads a conversation from a request. Whatever arrives is a stranger's: shapes and sizes are checked here once. */

export interface Message {
  role: "user" | "assistant";
  content: string;
}

/** What the sender can put right. Its message is meant for them. */
export class InputError extends Error {}

const MAX_MESSAGES = 100;
const MAX_CHARACTERS = 20_000;

function isMessage(value: unknown): value is Message {
  if (typeof value !== "object" || value === null) return false;
  const { role, content } = value as Record<string, unknown>;
  return (role === "user" || role === "assistant") && typeof content === "string" && content.trim() !== "";
}

export async function readMessages(request: Request): Promise<Message[]> {
  let body: unknown;
  try {
    body = await request.json();
  } catch {
    throw new InputError("The body must be JSON.");
  }
  const messages = (body as { messages?: unknown } | null)?.messages;
  if (!Array.isArray(messages) || messages.length === 0 || !messages.every(isMessage)) {
    throw new InputError('The body must be {"messages": [{"role": "user" or "assistant", "content": text}, …]}.');
  }
  if (messages.length > MAX_MESSAGES) {
    throw new InputError(`A conversation has at most ${MAX_MESSAGES} messages.`);
  }
  if (messages.reduce((sum, message) => sum + message.content.length, 0) > MAX_CHARACTERS) {
    throw new InputError(`A conversation has at most ${MAX_CHARACTERS} characters.`);
  }
  if (messages.at(-1)?.role !== "user") {
    throw new InputError("The last message must be the user's.");
  }
  return messages.map(({ role, content }) => ({ role, content }));
}
