// Equality of what values hold, as `node:assert` and `node:util` have it.

/** Whether two values hold the same; `strict` tells `1` from `"1"` and looks at prototypes. */
export function deepEqual(left, right, strict) {
  return equal(left, right, strict, []);
}

function equal(a, b, strict, pairs) {
  if (strict ? Object.is(a, b) : a == b || (a !== a && b !== b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (strict && Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
  if (Object.prototype.toString.call(a) !== Object.prototype.toString.call(b)) return false;
  // A pair that is being compared further up holds the same, if nothing else differs.
  if (pairs.some(([x, y]) => x === a && y === b)) return true;
  const inside = [...pairs, [a, b]];
  const same = (x, y) => equal(x, y, strict, inside);
  if (a instanceof Date) return Object.is(a.getTime(), b.getTime()) && properties(a, b, same);
  if (a instanceof RegExp) return String(a) === String(b) && a.lastIndex === b.lastIndex && properties(a, b, same);
  if (a instanceof Error && (a.name !== b.name || a.message !== b.message)) return false;
  if (a instanceof Number || a instanceof String || a instanceof Boolean) {
    if (!Object.is(a.valueOf(), b.valueOf())) return false;
  }
  if (a instanceof Map) return maps(a, b, same) && properties(a, b, same);
  if (a instanceof Set) return sets(a, b, same) && properties(a, b, same);
  if (a instanceof ArrayBuffer) return properties(new Uint8Array(a), new Uint8Array(b), same);
  if (a instanceof DataView) {
    const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    return properties(bytes(a), bytes(b), same);
  }
  return (!Array.isArray(a) || a.length === b.length) && properties(a, b, same);
}

function properties(a, b, same) {
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.prototype.hasOwnProperty.call(b, key) && same(a[key], b[key]))
  );
}

function maps(a, b, same) {
  if (a.size !== b.size) return false;
  const rest = [...b];
  return [...a].every(([key, value]) => {
    if (b.has(key)) return same(value, b.get(key));
    const at = rest.findIndex(([other, held]) => typeof other === "object" && same(key, other) && same(value, held));
    if (at >= 0) rest.splice(at, 1);
    return at >= 0;
  });
}

function sets(a, b, same) {
  if (a.size !== b.size) return false;
  const rest = [...b];
  return [...a].every((value) => {
    if (b.has(value)) return true;
    const at = rest.findIndex((other) => typeof other === "object" && same(value, other));
    if (at >= 0) rest.splice(at, 1);
    return at >= 0;
  });
}
