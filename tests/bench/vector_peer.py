"""Chroma, for `cargo xtask bench vectors`: builds and searches a collection as lines on standard input say.

    vector_peer.py FOLDER STATE

Commands and answers are those of the program vector-bench; see there.
"""

import json
import sys
import time
from pathlib import Path

import chromadb
import numpy as np
from chromadb.config import Settings

GROUPS = 100
BATCH = 5000


def main():
    folder, state = Path(sys.argv[1]), sys.argv[2]
    truth = json.loads((folder / "truth.json").read_text())
    dimensions = 384
    vectors = np.fromfile(folder / "vectors.f32", dtype="<f4").reshape(-1, dimensions)
    queries = np.fromfile(folder / "queries.f32", dtype="<f4").reshape(-1, dimensions)
    client = chromadb.PersistentClient(path=state, settings=Settings(anonymized_telemetry=False))
    collection = client.create_collection(
        "bench", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )

    def build():
        started = time.perf_counter()
        for first in range(0, len(vectors), BATCH):
            numbers = range(first, min(first + BATCH, len(vectors)))
            collection.add(
                ids=[str(number) for number in numbers],
                embeddings=vectors[first : first + BATCH],
                metadatas=[{"group": number % GROUPS} for number in numbers],
            )
        # The first query waits for what is not indexed yet.
        collection.query(query_embeddings=queries[:1], n_results=10, include=[])
        return {"seconds": time.perf_counter() - started}

    def search(filtered, patience):
        expected = truth["filtered" if filtered else "nearest"]
        asked = right = 0
        started = time.perf_counter()
        while time.perf_counter() - started < patience or asked < len(queries):
            number = asked % len(queries)
            where = {"group": number % GROUPS} if filtered else None
            found = collection.query(
                query_embeddings=queries[number : number + 1], n_results=10, where=where, include=["distances"]
            )
            if asked < len(queries):
                right += len({int(id) for id in found["ids"][0]} & set(expected[number]))
            asked += 1
        rate = asked / (time.perf_counter() - started)
        return {"rate": rate, "recall": right / (10 * len(queries))}

    def memory():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return {"bytes": int(line.split()[1]) * 1024}
        raise SystemExit("no VmRSS")

    for line in sys.stdin:
        word, _, seconds = line.strip().partition(" ")
        if word == "build":
            answer = build()
        elif word in ("search", "filtered"):
            answer = search(word == "filtered", float(seconds))
        elif word == "memory":
            answer = memory()
        else:
            raise SystemExit(f"{line!r} is no command")
        print(json.dumps(answer), flush=True)


main()
