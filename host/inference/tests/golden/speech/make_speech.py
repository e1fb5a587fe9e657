"""Makes the fixtures of speech recognition: sound in every container, a tiny Whisper checkpoint of random weights, and what
the reference implementations give for them.

usage: make_speech.py JFK_WAV [WHISPER_TINY_EN_FOLDER]
needs: torch, transformers, av, numpy, safetensors
JFK_WAV is the 11 s clip that comes with whisper.cpp (public domain); the folder is the catalogue's `whisper-tiny.en`.
"""
import json
import os
import sys
import wave

import av
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_num_threads(2)


def path(*names):
    return os.path.join(HERE, *names)


def read_wav(name):
    with wave.open(name) as file:
        assert file.getframerate() == 16000 and file.getnchannels() == 1
        return np.frombuffer(file.readframes(1 << 30), np.int16)


def encode(name, codec, samples, rate, layout, container=None, bit_rate=None, fmt=None):
    """Writes int16 mono `samples` at 16 kHz as another rate and layout."""
    with av.open(name, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.codec_context.layout = layout
        if fmt:
            stream.codec_context.format = fmt
        if bit_rate:
            stream.codec_context.bit_rate = bit_rate
        if codec in ("vorbis", "opus"):
            stream.codec_context.options = {"strict": "experimental"}
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = 16000
        fifo = av.AudioFifo()
        for piece in list(resampler.resample(frame)) + list(resampler.resample(None)):
            piece.pts = None
            fifo.write(piece)
        size = stream.codec_context.frame_size or 1024
        pts = 0
        while True:
            piece = fifo.read(size) or fifo.read()
            if piece is None:
                break
            piece.pts = pts
            pts += piece.samples
            for packet in stream.encode(piece):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)


def sounds(samples):
    encode(path("jfk.flac"), "flac", samples, 16000, "mono")
    clip = samples[5 * 16000 : 5 * 16000 + 12000]
    with wave.open(path("clip.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes(clip.tobytes())
    encode(path("clip_stereo_8k.wav"), "pcm_s16le", clip, 8000, "stereo")
    encode(path("clip_44k.mp3"), "libmp3lame", clip, 44100, "mono", bit_rate=64000)
    encode(path("clip_48k.flac"), "flac", clip, 48000, "mono")
    encode(path("clip_44k.ogg"), "vorbis", clip, 44100, "stereo", bit_rate=64000)
    encode(path("clip.opus"), "libopus", clip, 48000, "mono", container="ogg", bit_rate=32000)
    encode(path("clip.webm"), "libopus", clip, 48000, "mono", bit_rate=32000)
    encode(path("clip_44k.m4a"), "aac", clip, 44100, "mono", bit_rate=64000)


def tokenizer(folder, positions):
    """Bytes as tokens, then Whisper's special ones with three languages."""
    letters, vocab, extra = [], {}, 256
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF
        letters.append(chr(byte if printable else extra))
        extra += not printable
    for index, letter in enumerate(letters):
        vocab[letter] = index
    names = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>", "<|translate|>", "<|transcribe|>",
             "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    names += [f"<|{index * 0.02:.2f}|>" for index in range(positions + 1)]
    added = [dict(id=256 + index, content=name, single_word=False, lstrip=False, rstrip=False, normalized=False,
                  special=index < 11) for index, name in enumerate(names)]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    data = dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None, pre_tokenizer=level,
                post_processor=None, decoder=level, model=dict(type="BPE", dropout=None, unk_token=None,
                continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False, byte_fallback=False,
                vocab=vocab, merges=[]))
    json.dump(data, open(os.path.join(folder, "tokenizer.json"), "w"), ensure_ascii=False, separators=(",", ":"))
    return 256 + len(names)


def tiny(clip):
    folder = path("tiny")
    os.makedirs(folder, exist_ok=True)
    positions = 50
    vocabulary = tokenizer(folder, positions)
    config = WhisperConfig(
        vocab_size=vocabulary, num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=96,
        max_source_positions=positions, max_target_positions=48, pad_token_id=256, bos_token_id=256, eos_token_id=256,
        decoder_start_token_id=257, suppress_tokens=[1, 2], begin_suppress_tokens=[220, 256], init_std=0.4)
    torch.manual_seed(7)
    model = WhisperForConditionalGeneration(config).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "proj_out.weight":
            continue
        noise = torch.randn(tensor.shape) * (0.2 if tensor.dim() > 1 else 0.1)
        if "norm.weight" in name:
            noise = 1 + noise
        if "embed_positions" in name or "embed_tokens" in name:
            noise = noise * 2
        state[name] = noise.half()
    model.load_state_dict({**{name: tensor.float() for name, tensor in state.items()},
                           "proj_out.weight": state["model.decoder.embed_tokens.weight"].float()})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, os.path.join(folder, "model.safetensors"),
              metadata={"format": "pt"})
    public = {key: value for key, value in config.to_dict().items() if key in (
        "vocab_size num_mel_bins d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads "
        "encoder_ffn_dim decoder_ffn_dim max_source_positions max_target_positions model_type activation_function "
        "scale_embedding pad_token_id bos_token_id eos_token_id decoder_start_token_id suppress_tokens "
        "begin_suppress_tokens").split()}
    json.dump(public, open(os.path.join(folder, "config.json"), "w"), indent=1)
    json.dump(dict(alignment_heads=[[1, 0], [1, 3]], suppress_tokens=[1, 2], begin_suppress_tokens=[220, 256],
                   is_multilingual=True, max_initial_timestamp_index=50),
              open(os.path.join(folder, "generation_config.json"), "w"))
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    features = extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
    tokens = [257, 258, 262, 266, 65, 66, 67, 300, 90, 12]
    with torch.no_grad():
        encoded = model.model.encoder(features).last_hidden_state[0]
        logits = model(input_features=features, decoder_input_ids=torch.tensor([tokens])).logits[0]
    round_all = lambda tensor: [round(float(value), 5) for value in tensor.flatten()]
    return dict(tokens=tokens, encoder_first=round_all(encoded[0]), encoder_last=round_all(encoded[-1]),
                encoder_mean=float(encoded.mean()), logits_last=round_all(logits[-1]),
                logits_third=round_all(logits[2]), logits_mean=float(logits.mean()))


def spectrograms(samples):
    out = []
    for bands, seconds in ((80, 30), (128, 30), (80, 1)):
        extractor = WhisperFeatureExtractor(feature_size=bands, chunk_length=seconds)
        features = extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0]
        frames = [0, 1, 2, 50, 57, 99] if seconds == 1 else [0, 1, 2, 100, 555, 1098, 1099, 1100, 1101, 2999]
        out.append(dict(bands=bands, seconds=seconds, frames=frames, mean=float(features.mean()),
                        values=[[round(float(value), 6) for value in features[:, frame]] for frame in frames]))
    return out


def real(folder, samples):
    """Sums of whisper-tiny.en over the whole clip: what the tokens of a fixed prompt score."""
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    features = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features
    text = [843, 523, 616, 5891, 3399, 1265, 407, 644, 534, 1499, 460, 466, 329, 345]
    tokens = [50257, 50362] + text
    with torch.no_grad():
        encoded = model.model.encoder(features).last_hidden_state[0]
        logits = model(input_features=features, decoder_input_ids=torch.tensor([tokens])).logits[0]
    top = torch.topk(logits, 5, dim=-1)
    return dict(tokens=tokens, encoder_mean=float(encoded.mean()),
                encoder_last8=[float(value) for value in encoded[-1][:8]],
                top5=[[[int(token), round(float(value), 5)] for token, value in zip(ids, values)]
                      for ids, values in zip(top.indices, top.values)])


def main():
    samples = read_wav(sys.argv[1])
    sounds(samples)
    floats = samples.astype(np.float32) / 32768
    clip = floats[5 * 16000 : 5 * 16000 + 12000]
    reference = dict(tool=f"transformers {transformers.__version__}, torch {torch.__version__}, float32 on the processor",
                     mel=spectrograms(floats), tiny=tiny(clip))
    if len(sys.argv) > 2:
        reference["tiny_en"] = real(sys.argv[2], floats)
    json.dump(reference, open(path("reference.json"), "w"), separators=(",", ":"))


main()
