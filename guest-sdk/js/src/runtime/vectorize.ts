// `env.V`: a vector index. The host checks what it is given; here typed arrays become what JSON has.

import { call } from "./call";

const NAME = Symbol("name");

/** A vector as a program gives it: numbers in an array of any kind. */
type Numbers = ArrayLike<number> & Iterable<number>;

interface Vector {
  id: string;
  values: Numbers;
}

export class Vectorize {
  declare private [NAME]: string;

  constructor(name: string) {
    this[NAME] = name;
  }

  describe(): Promise<unknown> {
    return call(this[NAME], "describe", []);
  }

  async query(vector: Numbers, options?: object): Promise<unknown> {
    return call(this[NAME], "query", [numbers(vector), options ?? null]);
  }

  queryById(vectorId: string, options?: object): Promise<unknown> {
    return call(this[NAME], "queryById", [vectorId, options ?? null]);
  }

  async insert(vectors: Vector[]): Promise<unknown> {
    return call(this[NAME], "insert", [plain(vectors)]);
  }

  async upsert(vectors: Vector[]): Promise<unknown> {
    return call(this[NAME], "upsert", [plain(vectors)]);
  }

  getByIds(ids: string[]): Promise<unknown> {
    return call(this[NAME], "getByIds", [ids]);
  }

  deleteByIds(ids: string[]): Promise<unknown> {
    return call(this[NAME], "deleteByIds", [ids]);
  }
}

function numbers(values: unknown): unknown {
  return ArrayBuffer.isView(values) && !(values instanceof DataView) ? Array.from(values as unknown as Numbers) : values;
}

function plain(vectors: unknown): unknown {
  if (!Array.isArray(vectors)) return vectors;
  const typed = (vector: unknown): vector is Vector => ArrayBuffer.isView((vector as Vector | null)?.values);
  return vectors.map((vector: unknown) => (typed(vector) ? { ...vector, values: numbers(vector.values) } : vector));
}
