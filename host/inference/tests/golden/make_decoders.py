"""Makes the tiny checkpoints in decoders/ and what transformers computes from them.

    python make_decoders.py        (needs torch, transformers, gguf)

Weights are random whole numbers up to 127 times a power of two, with a 127 in every block of 32, so that float32,
bfloat16, float16 and Q8_0 all hold the very same values and one reference, computed in float32, serves all of them. A
second one, whose keys and values are rounded to half precision as a cache of those rounds them, leaves no more excuse.
Each GGUF file is read back by transformers, where it knows the architecture, and must give the reference again.
"""

import itertools
import json
import pathlib
import shutil
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent / "decoders"
VOCABULARY, TOKENS = 96, 48
COMMON = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
              pad_token_id=None)
LONG, SHORT = [1.5, 2.0, 4.0, 8.0], [1.0, 1.1, 1.3, 1.7]

CASES = {
    "llama": (transformers.LlamaConfig, dict(rms_norm_eps=1e-5, rope_parameters=dict(
        rope_type="llama3", rope_theta=50000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64))),
    "mistral": (transformers.MistralConfig, dict(head_dim=16, sliding_window=11, rope_parameters=dict(
        rope_type="default", rope_theta=1000.0))),
    "qwen2": (transformers.Qwen2Config, dict(rope_parameters=dict(
        rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=64))),
    "qwen3": (transformers.Qwen3Config, dict(head_dim=16, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="default", rope_theta=1000000.0))),
    "gemma2": (transformers.Gemma2Config, dict(
        head_dim=16, sliding_window=9, query_pre_attn_scalar=24, attn_logit_softcapping=3.0,
        final_logit_softcapping=6.0, rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "gemma3": (transformers.Gemma3TextConfig, dict(
        head_dim=16, intermediate_size=32, num_hidden_layers=6, sliding_window=9, query_pre_attn_scalar=16,
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
            sliding_attention=dict(rope_type="default", rope_theta=10000.0)))),
    "phi3": (transformers.Phi3Config, dict(
        num_attention_heads=2, num_key_value_heads=1, sliding_window=40, original_max_position_embeddings=32, partial_rotary_factor=0.5,
        rope_parameters=dict(rope_type="longrope", rope_theta=1000.0, long_factor=LONG, short_factor=SHORT,
                             partial_rotary_factor=0.5, original_max_position_embeddings=32))),
}


def weights(model, architecture, seed):
    generator = torch.Generator().manual_seed(seed)
    gemma = architecture.startswith("gemma")
    for name, parameter in sorted(model.named_parameters()):
        whole = torch.randint(-127, 128, parameter.shape, generator=generator).float()
        if parameter.dim() == 2:
            blocks = whole.view(parameter.shape[0], -1, 32)
            blocks[:, :, 0] = 127 * torch.where(blocks[:, :, 0] < 0, -1.0, 1.0)
            exponent = 8
            if "embed_tokens" in name:
                exponent = 8 if gemma else 6
            elif "lm_head" in name:
                exponent = 7
            value = whole * 2.0**-exponent
        elif "norm" in name:
            value = whole.clamp(-48, 48) / 128 + (0 if gemma else 1)
        else:
            value = whole * 2.0**-7
        assert torch.equal(value, value.bfloat16().float()) and torch.equal(value, value.half().float()), name
        parameter.data.copy_(value)


def ids(seed, count):
    return [(i * i * 7 + i * 31 + seed * 13) % VOCABULARY for i in range(count)]


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def rounding_attention(module, query, key, value, mask, **options):
    """Eager attention over keys and values that went through a cache in half precision."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, key.half().float(), value.half().float(), mask, **options)


def case_of(model, tokens):
    rows = logits(model, tokens)
    model.set_attn_implementation("rounding")
    cached = logits(model, tokens)
    model.set_attn_implementation("eager")
    gaps = rows.topk(2).values
    kept = sorted({0, len(tokens) // 3, 2 * len(tokens) // 3, len(tokens) - 1})
    return {
        "ids": tokens,
        "top": rows.argmax(-1).tolist(),
        "smallest_gap": round(float((gaps[:, 0] - gaps[:, 1]).min()), 4),
        "logits": {str(i): [round(float(v), 6) for v in rows[i]] for i in kept},
        "logits_half_cache": {str(i): [round(float(v), 6) for v in cached[i]] for i in kept},
    }


def permute(weight, heads):
    """The row order in which llama.cpp's converter puts queries and keys of the llama family."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, architecture, config, tensors, matrix_type):
    name = "llama" if architecture == "mistral" else architecture
    writer = gguf.GGUFWriter(str(path), name)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(int(head * getattr(config, "partial_rotary_factor", None)
                                        if architecture == "phi3" else head))
    extra = {}
    if architecture == "gemma3":
        writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["full_attention"]["factor"])
    else:
        writer.add_rope_freq_base(rope["rope_theta"])
    if architecture == "qwen2":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if architecture == "phi3":
        original = config.original_max_position_embeddings
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))
        extra = {"rope_factors_long.weight": np.array(LONG, np.float32),
                 "rope_factors_short.weight": np.array(SHORT, np.float32)}
    if architecture == "llama":
        frequencies = rope["rope_theta"] ** -(np.arange(0, head, 2) / head)
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
        keep = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
        extra = {"rope_freqs.weight": (1 / ((1 - keep) / rope["factor"] + keep)).astype(np.float32)}
    if architecture in ("mistral", "gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_float32("gemma2.attention.scale", config.query_pre_attn_scalar**-0.5)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, name.upper()), config.num_hidden_layers)
    for published, tensor in tensors.items():
        value = tensor.float().numpy()
        if name == "llama" and "q_proj" in published:
            value = permute(value, config.num_attention_heads)
        elif name == "llama" and "k_proj" in published:
            value = permute(value, config.num_key_value_heads)
        if architecture.startswith("gemma") and published.endswith("norm.weight"):
            value = value + 1
        extra[names.get_name(published, try_suffixes=(".weight", ".bias"))] = value
    for key, value in extra.items():
        if value.ndim == 2:
            stored = gguf.quants.quantize(value, matrix_type)
            assert np.array_equal(gguf.quants.dequantize(stored, matrix_type), value), key
            writer.add_tensor(key, stored, raw_dtype=matrix_type)
        else:
            writer.add_tensor(key, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_back(folder, file, model):
    """What transformers makes of the GGUF file must be the model again."""
    try:
        other = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    except Exception as error:
        return f"not read by transformers ({type(error).__name__}: {str(error)[:80]})"
    missing = [n for n, p in model.named_parameters() if not torch.equal(p, dict(other.named_parameters())[n])]
    return f"same weights in transformers: {not missing} {missing[:3]}"


def main():
    transformers.AttentionInterface.register("rounding", rounding_attention)
    transformers.AttentionMaskInterface.register("rounding", transformers.masking_utils.eager_mask)
    for architecture, (configuration, changes) in CASES.items():
        folder = HERE / architecture
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = configuration(**{**COMMON, **changes})
        config._attn_implementation = "eager"
        model = configuration_model(config)
        lengths = [TOKENS, 30] if architecture == "phi3" else [TOKENS]
        # A best token that wins by less than rounding would test nothing.
        for seed in itertools.count():
            weights(model, architecture, seed)
            cases = [case_of(model, ids(i, length)) for i, length in enumerate(lengths)]
            if min(case["smallest_gap"] for case in cases) > 0.05:
                break
        with tempfile.TemporaryDirectory() as temporary:
            model.save_pretrained(temporary)
            (folder / "config.json").write_text((pathlib.Path(temporary) / "config.json").read_text())
        tied = config.tie_word_embeddings
        tensors = {n: p.detach() for n, p in model.named_parameters() if not (tied and n == "lm_head.weight")}
        save_file({n: t.bfloat16() for n, t in tensors.items()}, str(folder / "model.safetensors"),
                  metadata={"format": "pt"})
        for suffix, kind in [("f16", gguf.GGMLQuantizationType.F16), ("q8_0", gguf.GGMLQuantizationType.Q8_0)]:
            write_gguf(folder / f"{suffix}.gguf", architecture, config, tensors, kind)
        source = f"transformers {transformers.__version__}, float32, CPU"
        (folder / "reference.json").write_text(json.dumps({"source": source, "cases": cases}) + "\n")
        sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir())}
        print(architecture, sizes, "gap", [c["smallest_gap"] for c in cases], read_back(folder, "f16.gguf", model))


def configuration_model(config):
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


if __name__ == "__main__":
    main()
