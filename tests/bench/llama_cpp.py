"""One measurement of llama.cpp, the peer of `llm-bench`: the same calls, timed the same way.

Prints one JSON object: prefill and decode in tokens/s, and the peak of resident memory over what the process held
before the model was loaded, in MB, so that the interpreter does not count.
"""

import argparse
import json
import time

import xllamacpp


def resident(field):
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"/proc/self/status has no {field}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--prompts", required=True, help="JSON: warm_up, prefill, first, decode")
    parser.add_argument("--decode-tokens", type=int, required=True)
    arguments = parser.parse_args()
    prompts = json.loads(arguments.prompts)

    before = resident("VmRSS")
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.n_ctx = arguments.context
    params.n_parallel = 1
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    server = xllamacpp.Server(params)

    def generate(prompt, tokens):
        request = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "cache_prompt": False}
        start = time.perf_counter()
        answer = server.handle_completions(request)
        seconds = time.perf_counter() - start
        return seconds, answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]

    generate(prompts["warm_up"], 8)
    prefill_seconds, prefill_tokens, _ = generate(prompts["prefill"], 1)
    first_seconds, _, first_tokens = generate(prompts["first"], 1)
    decode_seconds, _, decode_tokens = generate(prompts["decode"], arguments.decode_tokens + 1)
    print(
        json.dumps(
            {
                "prefill_tokens": prefill_tokens,
                "decode_tokens": decode_tokens - first_tokens,
                "prefill_tps": prefill_tokens / prefill_seconds,
                "decode_tps": (decode_tokens - first_tokens) / (decode_seconds - first_seconds),
                "rss_mb": resident("VmHWM") - before,
            }
        )
    )


if __name__ == "__main__":
    main()
