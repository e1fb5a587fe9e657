// What a worker may import besides its own files: the platform's modules, and Node's where the worker asks for them.

import { readFile } from "node:fs/promises";
import { builtinModules, createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { defineEnv } from "unenv";

const source = join(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);

/** Modules of this SDK's own, before those of unenv. */
const OWN = {
  process: join(source, "node/process.mjs"),
  async_hooks: join(source, "node/async_hooks.mjs"),
  util: join(source, "node/util.mjs"),
  assert: join(source, "node/assert.mjs"),
  "assert/strict": join(source, "node/assert-strict.mjs"),
};

const BUILTIN = new Set(builtinModules.filter((name) => !name.startsWith("_")));
const COMPAT = 'compatibility_flags = ["nodejs_compat"]';

/** The part of esbuild's options that is about imports. */
export function platform(nodejs) {
  return {
    plugins: [cloudflare, nodejs ? nodeModules : withoutNode, files],
    ...(nodejs ? { inject: [join(source, "node/globals.mjs")] } : {}),
  };
}

const cloudflare = {
  name: "cloudflare",
  setup(build) {
    build.onResolve({ filter: /^cloudflare:/ }, ({ path }) => {
      if (path === "cloudflare:workers")
        return { path: join(source, "modules/cloudflare-workers.mjs"), sideEffects: false };
      const text = `This host has no module "${path}". The only one of its kind is "cloudflare:workers".`;
      return { errors: [{ text }] };
    });
  },
};

const withoutNode = {
  name: "without-node",
  setup(build) {
    build.onResolve({ filter: /^node:/ }, ({ path }) => needsNode(path));
    // A bare name may also be a package that is installed, so it is an error only where nothing else is found.
    build.onResolve({ filter: /^[a-z_]+(\/[a-z]+)?$/ }, async ({ path, pluginData, ...rest }) => {
      if (!BUILTIN.has(path) || pluginData === LOOKING) return undefined;
      const found = await build.resolve(path, {
        importer: rest.importer,
        kind: rest.kind,
        namespace: rest.namespace,
        resolveDir: rest.resolveDir,
        pluginData: LOOKING,
      });
      return found.errors.length ? needsNode(path) : found;
    });
  },
};

const LOOKING = Symbol("looking");

function needsNode(path) {
  const text = `"${path}" is a module of Node.js, which this worker does not ask for. To have it, add to the binding file: ${COMPAT}`;
  return { errors: [{ text }] };
}

const { alias } = defineEnv({ nodeCompat: true, npmShims: false }).env;

const nodeModules = {
  name: "node-modules",
  setup(build) {
    build.onResolve({ filter: /^(node:)?[a-z0-9_]+(\/[a-z0-9_]+)*$/ }, ({ path, importer }) => {
      const bare = path.replace(/^node:/, "");
      const known = BUILTIN.has(bare) || path.startsWith("node:");
      if (!known) return undefined;
      // A module of the SDK builds on the one that it stands for.
      if (OWN[bare] && importer !== OWN[bare]) return { path: OWN[bare], sideEffects: false };
      const target = alias[`node:${bare}`] ?? alias[bare];
      if (!target) return { errors: [{ text: `"${path}" is a module of Node.js that this host does not have.` }] };
      return { path: require.resolve(target), sideEffects: false };
    });
    build.onResolve({ filter: /^unenv\// }, ({ path }) => ({ path: require.resolve(path), sideEffects: false }));
  },
};

const files = {
  name: "files",
  setup(build) {
    build.onLoad({ filter: /\.bin$/ }, async ({ path }) => {
      const text = (await readFile(path)).toString("base64");
      const contents = `const text = atob(${JSON.stringify(text)});
const bytes = new Uint8Array(text.length);
for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index);
export default bytes.buffer;`;
      return { contents, loader: "js" };
    });
    build.onResolve({ filter: /\.wasm(\?module)?$/ }, ({ path }) => {
      const text = `"${path}" cannot be imported: the engine of JavaScript workers does not run WebAssembly modules. Build the worker as a component, or call a worker that is one.`;
      return { errors: [{ text }] };
    });
  },
};
