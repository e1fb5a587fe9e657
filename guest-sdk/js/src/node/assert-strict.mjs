// `node:assert/strict`.

import { strict } from "./assert.mjs";

export * from "./assert.mjs";
export const { equal, notEqual, deepEqual, notDeepEqual } = strict;
export { strict as assert };
export default strict;
