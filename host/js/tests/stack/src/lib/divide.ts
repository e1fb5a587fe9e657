/** Fails where `b` is zero. */
export function divide(a: bigint, b: bigint): bigint {
  // "é😀" stands before the division, so that columns and bytes differ.
  return /* é😀 */ a / b;
}
