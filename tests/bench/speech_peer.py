"""The peer of `cargo xtask bench speech`: faster-whisper (CTranslate2) on the processor. Prints one JSON object.

usage: speech_peer.py MODEL AUDIO --threads N --precision float|int8 [--beams 5] [--repeat 3]
"""
import argparse
import json
import time

from faster_whisper import WhisperModel

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("audio")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--precision", choices=["float", "int8"], default="float")
parser.add_argument("--beams", type=int, default=5)
parser.add_argument("--repeat", type=int, default=3)
arguments = parser.parse_args()

compute = {"float": "float32", "int8": "int8"}[arguments.precision]
model = WhisperModel(arguments.model, device="cpu", compute_type=compute, cpu_threads=arguments.threads,
                     local_files_only=True)


def transcribe():
    start = time.perf_counter()
    segments, info = model.transcribe(arguments.audio, language="en", beam_size=arguments.beams, word_timestamps=True)
    text = "".join(segment.text for segment in segments)
    return time.perf_counter() - start, info.duration, text


transcribe()
seconds, duration, text = min(transcribe() for _ in range(arguments.repeat))
print(json.dumps(dict(seconds=seconds, audio_seconds=duration, rtf=seconds / duration, text=text)))
