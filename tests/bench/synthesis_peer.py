"""The peer of `cargo xtask bench synthesis`: VITS in transformers, on the processor.

`make` writes a model of MMS-TTS's dimensions with random weights. Nothing in it is left to chance, so that both sides make
as much sound of the same tokens. `speed` prints one JSON object with the same members as `synthesis-bench`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import VitsConfig, VitsModel

LETTERS = "_abcdefghijklmnopqrstuvwxyz '-,0123456"


def make(arguments):
    torch.manual_seed(0)
    # Two frames and more a token, as people speak.
    config = VitsConfig(vocab_size=len(LETTERS), noise_scale=0.0, noise_scale_duration=0.0, speaking_rate=0.4)
    folder = Path(arguments.directory)
    VitsModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"phonemize": False, "pad_token": "_"}))


def speed(arguments):
    torch.set_num_threads(arguments.threads)
    model = VitsModel.from_pretrained(arguments.model).eval()
    ids = [0]
    for letter in arguments.text:
        ids += [LETTERS.index(letter), 0]

    def speak():
        started = time.perf_counter()
        with torch.inference_mode():
            samples = model(torch.tensor([ids])).waveform.shape[-1]
        return time.perf_counter() - started, samples

    speak()
    seconds, samples = min(speak() for _ in range(arguments.repeat))
    print(json.dumps({"seconds": seconds, "samples": samples, "rate": model.config.sampling_rate}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("make")
    task.add_argument("directory")
    task = tasks.add_parser("speed")
    task.add_argument("model")
    task.add_argument("text")
    task.add_argument("--threads", type=int, default=1)
    task.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    {"make": make, "speed": speed}[arguments.task](arguments)


main()
