"""transformers on a GPU: makes the models that `gpu-bench` times, and times them the same way.

`make` writes a llama with random weights in bfloat16, as checkpoints are published. `speed` prints one JSON object with
the same members as `gpu-bench speed`: prompts of one length for all sequences, then greedy tokens, each sequence as many.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

COMMON = {"vocab_size": 128256, "max_position_embeddings": 4096, "rope_theta": 500000.0, "num_attention_heads": 32,
          "num_key_value_heads": 8, "rms_norm_eps": 1e-5}
SIZES = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "tie_word_embeddings": False},
}


def make(arguments):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(arguments.device):
        model = LlamaForCausalLM(LlamaConfig(**{**COMMON, **SIZES[arguments.size]}))
    model.save_pretrained(arguments.directory)


def speed(arguments):
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).to(arguments.device).eval()
    vocabulary = model.config.vocab_size
    rows = [[(i * 7919 + s * 104729) % vocabulary for i in range(arguments.prompt)] for s in range(arguments.streams)]
    ids = torch.tensor(rows, device=arguments.device)

    def timed(tokens):
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        # No token ends a sequence, so that all make as many.
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                              do_sample=False, eos_token_id=None, pad_token_id=0)
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        assert made.shape[1] == arguments.prompt + tokens
        return time.perf_counter() - started

    with torch.inference_mode():
        timed(4)
        first = timed(1)
        whole = timed(arguments.tokens + 1)
    print(json.dumps({
        "streams": arguments.streams,
        "prefill_tps": arguments.streams * arguments.prompt / first,
        "decode_tps": arguments.streams * arguments.tokens / (whole - first),
    }))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("make")
    task.add_argument("--size", choices=SIZES, required=True)
    task.add_argument("directory")
    task = tasks.add_parser("speed")
    task.add_argument("model")
    task.add_argument("--streams", type=int, required=True)
    task.add_argument("--prompt", type=int, default=128)
    task.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    {"make": make, "speed": speed}[arguments.task](arguments)


if __name__ == "__main__":
    main()
