"""Makes smollm2_logits.json: what transformers computes, in float32, from the dequantized SmolLM2 file of the store.

    python make_smollm2_logits.py FOLDER FILE.gguf        (needs torch, transformers, gguf)

The texts are those of smollm2.json, with the answers that follow them there. Of each place's distribution the 16 best
tokens are kept.
"""

import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
KEPT = 16


def main():
    folder, file = sys.argv[1:]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    cases = []
    for prompt in json.loads((HERE / "smollm2.json").read_text())["prompts"]:
        ids = (prompt["ids"] + prompt["greedy_ids"])[:64]
        with torch.no_grad():
            best = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).topk(KEPT)
        cases.append({
            "ids": ids,
            "best": best.indices.tolist(),
            "logprobs": [[round(v, 4) for v in row] for row in best.values.tolist()],
        })
    source = f"transformers {transformers.__version__}, {file} dequantized to float32, CPU"
    (HERE / "smollm2_logits.json").write_text(json.dumps({"source": source, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
