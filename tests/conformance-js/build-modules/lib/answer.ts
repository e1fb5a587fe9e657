import { half } from "./half.js";

export function answer(): number {
  return half(84);
}
