/** The cosine of the angle between two vectors; 0 when one has no direction. */
export function cosine(a: number[], b: number[]): number {
  let dot = 0;
  let left = 0;
  let right = 0;
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  const lengths = Math.sqrt(left * right);
  return lengths > 0 ? dot / lengths : 0;
}
