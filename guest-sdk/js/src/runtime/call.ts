// Bindings that are called by method: arguments and answers are JSON, and the host does the rest.

import { send } from "./fetch";
import { NativeHeaders } from "./natives";
import { refuseInGlobalScope } from "./state";

/** Calls a method of a binding. An error of the host is thrown with its message. */
export async function call(binding: string, method: string, values: unknown[]): Promise<unknown> {
  refuseInGlobalScope();
  const headers = new NativeHeaders({ "content-type": "application/json" });
  const url = `${INTERNAL}/binding/${encodeURIComponent(binding)}/call?method=${encodeURIComponent(method)}`;
  const native = await send(url, { method: "POST", headers, body: JSON.stringify(values), signal: null });
  const answer = await native.json();
  if (!native.ok) throw new Error((answer as { message: string }).message);
  return answer;
}
