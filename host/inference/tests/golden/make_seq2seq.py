"""Makes the tiny checkpoints in seq2seq/ and what transformers computes from them.

    python make_seq2seq.py        (needs torch, transformers)

Weights are random and exact in the type that a checkpoint is stored in, so that one reference, computed in float32,
holds for every type. References are the encoder's states, teacher-forced logits and the tokens of `generate` under the
settings of GENERATIONS.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent / "seq2seq"
VOCABULARY = 64
BART = dict(vocab_size=VOCABULARY, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=40, max_position_embeddings=64,
            pad_token_id=1, bos_token_id=0, eos_token_id=2)
T5 = dict(vocab_size=VOCABULARY, d_model=24, d_kv=10, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=3,
          relative_attention_num_buckets=8, relative_attention_max_distance=20, pad_token_id=0, eos_token_id=1,
          decoder_start_token_id=0)
CASES = {
    "m2m_100": (transformers.M2M100Config, transformers.M2M100ForConditionalGeneration, torch.bfloat16, dict(
        BART, activation_function="relu", scale_embedding=True, decoder_start_token_id=2)),
    "marian": (transformers.MarianConfig, transformers.MarianMTModel, torch.float16, dict(
        BART, activation_function="swish", scale_embedding=True, pad_token_id=63, eos_token_id=0,
        decoder_start_token_id=63, forced_eos_token_id=0)),
    "bart": (transformers.BartConfig, transformers.BartForConditionalGeneration, torch.bfloat16, dict(
        BART, activation_function="gelu", decoder_start_token_id=2, forced_bos_token_id=0, forced_eos_token_id=2)),
    "mbart": (transformers.MBartConfig, transformers.MBartForConditionalGeneration, torch.float32, dict(
        BART, d_model=16, decoder_attention_heads=4, encoder_attention_heads=2, activation_function="gelu", scale_embedding=True, decoder_start_token_id=2,
        forced_eos_token_id=2)),
    "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration, torch.bfloat16, dict(
        T5, feed_forward_proj="relu", tie_word_embeddings=True)),
    "flan_t5": (transformers.T5Config, transformers.T5ForConditionalGeneration, torch.float16, dict(
        T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
}
GENERATIONS = [
    dict(max_length=16),
    dict(max_length=20, no_repeat_ngram_size=2, min_length=6),
    dict(max_length=20, num_beams=4),
    dict(max_length=24, num_beams=4, early_stopping=True, length_penalty=2.0, no_repeat_ngram_size=2, min_length=8),
    dict(max_length=20, num_beams=3, length_penalty=0.3, early_stopping="never"),
    dict(max_length=20, num_beams=5, length_penalty=-0.5),
    dict(max_length=20, num_beams=2, forced_bos_token_id=17, bad_words_ids=[[5], [9], [20, 21], [11, 12, 13]]),
    dict(max_length=12, num_beams=2, eos_token_id=[3, 7], early_stopping=True),
]


def weights(model, dtype, seed, end):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "embed_positions" in name and isinstance(model, transformers.MarianMTModel):
            continue  # sines and cosines
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            value = value * 0.2 + (1 if "norm" in name and name.endswith("weight") else 0)
        elif "relative_attention_bias" in name:
            value = value * 2
        elif "shared" in name or "embed" in name or "lm_head" in name:
            scaled = getattr(model.config, "scale_embedding", False)
            value = value * (0.25 if scaled or "lm_head" in name else 0.8)
            # Some texts are to end by themselves, and not at once where the end is the start too.
            value[end] *= 1.0 if end == model.config.decoder_start_token_id else 2.2
        else:
            value = value * (1.5 / parameter.shape[1] ** 0.5)
        parameter.data.copy_(value.to(dtype).float())
    bias = getattr(model, "final_logits_bias", None)
    if bias is not None:
        value = torch.randn(bias.shape, generator=generator) * 0.5
        value[0, end] = 2.5
        bias.copy_(value.to(dtype).float())


def ids(seed, count, eos):
    return [4 + (i * i * 7 + i * 31 + seed * 13) % (VOCABULARY - 8) for i in range(count - 1)] + [eos]


def settings(config, options, generation):
    """The whole of generation_config.json: nothing comes from elsewhere."""
    base = dict(pad_token_id=config.pad_token_id, eos_token_id=config.eos_token_id,
                decoder_start_token_id=config.decoder_start_token_id)
    return base | {key: value for key, value in options.items() if key.startswith("forced")} | generation


def make(name, seed):
    kind, architecture, dtype, options = CASES[name]
    # transformers 5 keeps settings of generation out of configurations; published ones have them.
    config = kind(**{key: value for key, value in options.items() if not key.startswith("forced")})
    if options.get("tie_word_embeddings") is False:
        config.tie_word_embeddings = False
    model = architecture(config).eval()
    if name == "flan_t5":
        model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    weights(model, dtype, seed, config.eos_token_id)
    model.tie_weights()
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors, seen = {}, set()
    for key, tensor in model.state_dict().items():
        if "embed_positions.weight" in key and name in ("m2m_100", "marian"):
            continue
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        tensors[key] = tensor.to(dtype).contiguous().clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    published = {key: value for key, value in options.items()}
    published |= dict(model_type=config.model_type, architectures=[architecture.__name__])
    (folder / "config.json").write_text(json.dumps(published, indent=1) + "\n")
    reference = {"cases": [], "generations": []}
    with torch.no_grad():
        for case, (source, target) in enumerate([(7, 5), (1, 9), (40, 33)]):
            source = ids(seed + case, source, config.eos_token_id)
            target = [config.decoder_start_token_id] + ids(seed + case + 50, target, config.eos_token_id)
            out = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]))
            states = out.encoder_last_hidden_state[0]
            places = sorted({0, len(source) // 2, len(source) - 1})
            steps = sorted({0, 1, len(target) // 2, len(target) - 1})
            reference["cases"].append(dict(
                source=source, target=target, states={str(p): rounded(states[p]) for p in places},
                logits={str(s): rounded(out.logits[0, s]) for s in steps}))
        lengths = set()
        for number, generation in enumerate(GENERATIONS):
            for case, length in enumerate([6, 13, 29]):
                source = ids(seed * 3 + number * 7 + case, length, config.eos_token_id)
                given = settings(config, options, generation)
                model.generation_config = transformers.GenerationConfig(**given)
                found = model.generate(torch.tensor([source]))[0].tolist()
                ends = given["eos_token_id"]
                ends = ends if isinstance(ends, list) else [ends]
                while found and found[-1] == config.pad_token_id and config.pad_token_id not in ends:
                    found.pop()
                lengths.add(len(found))
                reference["generations"].append(dict(source=source, settings=given, tokens=found))
        print(name, sorted(lengths), "weights", (folder / "model.safetensors").stat().st_size)
    (folder / "reference.json").write_text(json.dumps(reference, separators=(",", ":")) + "\n")


def rounded(tensor):
    return [float(f"{value:.6g}") for value in tensor.tolist()]


for seed, name in enumerate(CASES):
    make(name, seed + 1)
