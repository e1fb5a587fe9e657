// `node:async_hooks`. The engine cannot follow a context through `await`. An instance handles one request at a time, so
// a store that stays until the callback's promise has settled is right wherever contexts do not overlap within a
// request; where they do, the later one is seen.

import { AsyncResource as Resource } from "unenv/node/async_hooks";

export * from "unenv/node/async_hooks";

export class AsyncLocalStorage {
  #stores = [];
  #entered;

  static bind(callback) {
    return callback;
  }

  static snapshot() {
    return (callback, ...values) => callback(...values);
  }

  getStore() {
    return this.#stores.length ? this.#stores.at(-1).store : this.#entered;
  }

  run(store, callback, ...values) {
    const entry = { store };
    this.#stores.push(entry);
    const leave = () => {
      const at = this.#stores.lastIndexOf(entry);
      if (at >= 0) this.#stores.splice(at, 1);
    };
    let result;
    try {
      result = callback(...values);
    } catch (error) {
      leave();
      throw error;
    }
    if (typeof result?.then !== "function") {
      leave();
      return result;
    }
    return result.then(
      (value) => {
        leave();
        return value;
      },
      (error) => {
        leave();
        throw error;
      },
    );
  }

  exit(callback, ...values) {
    return this.run(undefined, callback, ...values);
  }

  enterWith(store) {
    this.#entered = store;
  }

  disable() {
    this.#stores = [];
    this.#entered = undefined;
  }
}

export class AsyncResource extends Resource {}

export default { AsyncLocalStorage, AsyncResource };
