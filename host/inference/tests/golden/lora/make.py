"""Makes what the tests of LoRA adapters compare with: a tiny random llama as safetensors and as GGUF, two adapters as
PEFT saves them, and the logits of transformers and PEFT in float32 for the base and for each adapter.

    pip install torch transformers peft gguf && python make.py
"""

import json
from pathlib import Path

import gguf
import numpy
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
HEADS, KV_HEADS = 4, 2
TOKENS = [3, 17, 60, 4, 4, 33, 9, 51, 12, 0, 27, 63, 8, 44]


def permuted(weight, heads):
    """Rows as converters to GGUF order them for llama: the halves of a head that turn together become neighbours."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def base():
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn_like(weight) * (0.1 if "norm" in name else 0.2) + (1 if "norm" in name else 0)
            # Exact in half precision, in which the files hold it.
            weight.copy_(values.half().float())
    model.half().save_pretrained(HERE / "base")
    (HERE / "base/generation_config.json").unlink(missing_ok=True)
    return model.float()


def write_gguf(model):
    writer = gguf.GGUFWriter(HERE / "base.gguf", "llama")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if name.endswith("q_proj.weight"):
            values = permuted(values, HEADS)
        if name.endswith("k_proj.weight"):
            values = permuted(values, KV_HEADS)
        kind = numpy.float32 if values.ndim == 1 else numpy.float16
        writer.add_tensor(names.get_name(name, (".weight",)), values.astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adapter(name, seed, dtype, **options):
    torch.manual_seed(seed)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(HERE / "base").float(), LoraConfig(**options))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(HERE / name)
    file = HERE / name / "adapter_model.safetensors"
    save_file({key: value.to(dtype) for key, value in load_file(file).items()}, file)
    (HERE / name / "README.md").unlink(missing_ok=True)
    config = HERE / name / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None}, indent=2) + "\n")


def logits(name=None):
    model = LlamaForCausalLM.from_pretrained(HERE / "base").float()
    if name:
        model = PeftModel.from_pretrained(model, HERE / name, autocast_adapter_dtype=True).float()
    with torch.no_grad():
        rows = model.eval()(torch.tensor([TOKENS])).logits[0]
    return [[float(f"{value:.7g}") for value in row] for row in rows.tolist()]


write_gguf(base())
every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
adapter("every", 1, torch.float32, r=4, lora_alpha=6, target_modules=every)
adapter(
    "patterns",
    2,
    torch.bfloat16,
    r=8,
    lora_alpha=5,
    use_rslora=True,
    target_modules=["q_proj", "v_proj", "down_proj"],
    rank_pattern={"layers.1.self_attn.q_proj": 2, "down_proj": 3},
    alpha_pattern={"v_proj": 9},
)
expected = {"tokens": TOKENS, "base": logits(), "every": logits("every"), "patterns": logits("patterns")}
text = json.dumps(expected, separators=(",", ":")).replace("]],", "]],\n").replace("],[", "],\n[")
(HERE / "expected.json").write_text(text + "\n")
