"""Tiny random Stable Diffusion checkpoints in diffusers' layout, and what diffusers computes with them in float32.

    python make_diffusion.py            # with torch, diffusers and transformers; writes beside itself

Weights are random and stored as float16; the references are computed from the stored values in float32.
"""
import json, os, shutil, sys
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = ["cat", "dog", "tree", "red", "the", "on", "hat", "in"]
CHANNELS, GROUPS = (4, 8), 2


def tokenizer(folder, pad):
    """Letters, digits, a few marks, and merges that make some words one token."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,.!'") + ["Ã", "©"]
    vocab = ["!"] + [c for c in letters if c != "!"]
    vocab += [c + "</w>" for c in vocab]
    merges = []
    for word in WORDS:
        parts = list(word[:-1]) + [word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            joined = "".join(pair)
            if joined not in vocab:
                vocab.append(joined)
            parts = [joined] + parts[2:]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    os.makedirs(folder, exist_ok=True)
    json.dump({t: i for i, t in enumerate(vocab)}, open(f"{folder}/vocab.json", "w"), ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    json.dump(special, open(f"{folder}/special_tokens_map.json", "w"))
    json.dump({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special},
              open(f"{folder}/tokenizer_config.json", "w"))
    return len(vocab)


def randomize(model, seed):
    """Values that reach every path: norms are not ones and zeros, nothing vanishes."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        if p.ndim == 1:
            base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.data = base + 0.2 * torch.randn(p.shape, generator=g)
        else:
            fan = p[0].numel()
            p.data = torch.randn(p.shape, generator=g) * (0.5 if "embedding" in name else 1.0 / fan ** 0.5)
        p.data = p.data.half().float()
    return model.eval()


def clip(vocab, hidden, act, layers, projection=None, eos=None):
    config = CLIPTextConfig(vocab_size=vocab, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
                            num_attention_heads=4, hidden_act=act, max_position_embeddings=77, bos_token_id=vocab - 2,
                            eos_token_id=vocab - 1 if eos is None else eos, pad_token_id=vocab - 1,
                            projection_dim=projection or hidden)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def store(model, folder, variant=None):
    os.makedirs(folder, exist_ok=True)
    half = type(model).from_config(model.config) if hasattr(model, "from_config") else None
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    if isinstance(model, CLIPTextModel) and not any(k.startswith("text_model.") for k in state):
        state = {"text_model." + k: v for k, v in state.items()}      # as published
    name = "diffusion_pytorch_model" if half is not None else "model"
    save_file(state, f"{folder}/{name}{'.' + variant if variant else ''}.safetensors", metadata={"format": "pt"})
    if half is not None:
        model.save_config(folder)
    else:
        model.config.save_pretrained(folder)


def vae(seed, **more):
    return randomize(AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=16,
        scaling_factor=0.18215, **more), seed)


def unet(seed, **more):
    settings = dict(sample_size=8, in_channels=4, out_channels=4, block_out_channels=CHANNELS, norm_num_groups=GROUPS,
                    layers_per_block=1, cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2)
    settings.update(more)
    return randomize(UNet2DConditionModel(**settings), seed)


def index(folder, name, parts):
    json.dump({"_class_name": name, "_diffusers_version": "0.42.1", **parts}, open(f"{folder}/model_index.json", "w"), indent=1)


def ids(tok, text):
    return torch.tensor([tok(text, padding="max_length", max_length=77, truncation=True).input_ids])


def noise(shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def common(refs, u, v, states, added=None):
    x, t = noise((1, u.config.in_channels, 5, 6), 1), 501
    refs["unet_input"], refs["unet_timestep"] = x, torch.tensor([float(t)])
    kwargs = dict(added_cond_kwargs=added) if added else {}
    refs["unet_output"] = u(x, t, encoder_hidden_states=states, **kwargs).sample
    z = noise((1, 4, 5, 6), 2)
    refs["vae_latent"], refs["vae_decoded"] = z, v.decode(z).sample
    picture = noise((1, 3, 10, 12), 3).clamp(-1, 1)
    latent = v.encode(picture).latent_dist
    refs["vae_picture"], refs["vae_mean"], refs["vae_logvar"] = picture, latent.mean, latent.logvar


def finish(folder, refs, note):
    refs = {k: v.detach().float().contiguous() if v.dtype != torch.int64 else v for k, v in refs.items()}
    save_file(refs, f"{folder}/reference.safetensors")
    json.dump(note, open(f"{folder}/reference.json", "w"), indent=1)


PROMPT, NEGATIVE = "The  cat in the RED hat, on a tree!  café 12", "dog"


def sd(kind):
    folder = os.path.join(HERE, kind)
    shutil.rmtree(folder, ignore_errors=True)
    new = kind == "sd21"
    vocab = tokenizer(f"{folder}/tokenizer", "!" if new else "<|endoftext|>")
    text = randomize(clip(vocab, 8, "gelu" if new else "quick_gelu", 2, eos=None if new else 2), 1)
    u = unet(2, **(dict(use_linear_projection=True, attention_head_dim=[2, 4], transformer_layers_per_block=2) if new else {}))
    v = vae(3)
    store(text, f"{folder}/text_encoder", None if new else "fp16")
    store(u, f"{folder}/unet", None if new else "fp16")
    store(v, f"{folder}/vae", None if new else "fp16")
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    if new:
        scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **betas)
    else:
        scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **betas)
    scheduler.save_config(f"{folder}/scheduler")
    parts = dict(scheduler=["diffusers", type(scheduler).__name__], text_encoder=["transformers", "CLIPTextModel"],
                 tokenizer=["transformers", "CLIPTokenizer"], unet=["diffusers", "UNet2DConditionModel"],
                 vae=["diffusers", "AutoencoderKL"], safety_checker=[None, None], feature_extractor=[None, None])
    index(folder, "StableDiffusionPipeline", parts)
    tok = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
    refs = {"ids": ids(tok, PROMPT)}
    refs["states"] = text(refs["ids"]).last_hidden_state
    common(refs, u, v, refs["states"])
    pipe = StableDiffusionPipeline(v, text, tok, u, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    start = noise((1, 4, 8, 12), 4)
    refs["start"] = start
    out = pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=4.0, latents=start, height=16, width=24,
               output_type="latent")
    refs["final"] = out.images
    refs["drawn"] = v.decode(out.images / v.config.scaling_factor).sample
    finish(folder, refs, dict(prompt=PROMPT, negative_prompt=NEGATIVE, steps=5, guidance=4.0))


def sdxl():
    folder = os.path.join(HERE, "sdxl")
    shutil.rmtree(folder, ignore_errors=True)
    vocab = tokenizer(f"{folder}/tokenizer", "<|endoftext|>")
    tokenizer(f"{folder}/tokenizer_2", "!")
    one = randomize(clip(vocab, 8, "quick_gelu", 3, eos=2), 1)
    two = randomize(clip(vocab, 12, "gelu", 3, projection=12, eos=2), 2)
    u = unet(3, cross_attention_dim=20, use_linear_projection=True, attention_head_dim=[2, 4],
             transformer_layers_per_block=[1, 2], addition_embed_type="text_time", addition_time_embed_dim=4,
             projection_class_embeddings_input_dim=12 + 6 * 4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
             up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    v = vae(4)
    for model, name in [(one, "text_encoder"), (two, "text_encoder_2"), (u, "unet"), (v, "vae")]:
        store(model, f"{folder}/{name}")
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                                       timestep_spacing="leading")
    scheduler.save_config(f"{folder}/scheduler")
    parts = dict(scheduler=["diffusers", "EulerDiscreteScheduler"], text_encoder=["transformers", "CLIPTextModel"],
                 text_encoder_2=["transformers", "CLIPTextModelWithProjection"], tokenizer=["transformers", "CLIPTokenizer"],
                 tokenizer_2=["transformers", "CLIPTokenizer"], unet=["diffusers", "UNet2DConditionModel"],
                 vae=["diffusers", "AutoencoderKL"], force_zeros_for_empty_prompt=True)
    index(folder, "StableDiffusionXLPipeline", parts)
    toks = [CLIPTokenizer.from_pretrained(f"{folder}/{n}") for n in ("tokenizer", "tokenizer_2")]
    pipe = StableDiffusionXLPipeline(v, one, two, toks[0], toks[1], u, scheduler, force_zeros_for_empty_prompt=True,
                                     add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    refs = {"ids": ids(toks[0], PROMPT), "ids_2": ids(toks[1], PROMPT)}
    states, _, pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    refs["states"], refs["pooled"] = states, pooled
    times = torch.tensor([[10.0, 12.0, 0.0, 0.0, 10.0, 12.0]])
    common(refs, u, v, states, dict(text_embeds=pooled, time_ids=times))
    start = noise((1, 4, 8, 12), 5)
    refs["start"] = start
    call = dict(num_inference_steps=5, guidance_scale=4.0, latents=start, height=16, width=24, output_type="latent")
    refs["final"] = pipe(PROMPT, negative_prompt=NEGATIVE, **call).images
    refs["drawn"] = v.decode(refs["final"] / v.config.scaling_factor).sample
    refs["final_without_negative"] = pipe(PROMPT, **call).images
    finish(folder, refs, dict(prompt=PROMPT, negative_prompt=NEGATIVE, steps=5, guidance=4.0))


def pieces(folder):
    """A T5-like tokenizer: words after a mark of a space, letters where a word is unknown."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,.!")
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -3.0)] + [(c, -6.0) for c in letters]
    vocab += [("\u2581" + w, -2.0) for w in WORDS]
    tok = Tokenizer(models.Unigram(vocab, unk_id=2))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    os.makedirs(folder, exist_ok=True)
    tok.save(f"{folder}/tokenizer.json", pretty=False)
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"), len(vocab)


def flux():
    folder = os.path.join(HERE, "flux")
    shutil.rmtree(folder, ignore_errors=True)
    vocab = tokenizer(f"{folder}/tokenizer", "<|endoftext|>")
    tok2, count = pieces(f"{folder}/tokenizer_2")
    one = randomize(clip(vocab, 8, "quick_gelu", 2, eos=2), 1)
    two = randomize(T5EncoderModel(T5Config(vocab_size=count, d_model=8, d_kv=4, num_heads=3, d_ff=12, num_layers=2,
                                            feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
                                            relative_attention_max_distance=32)), 2)
    net = randomize(FluxTransformer2DModel(patch_size=1, in_channels=16, num_layers=1, num_single_layers=2,
                                           attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8,
                                           pooled_projection_dim=8, axes_dims_rope=(2, 2, 4)), 3)
    v = vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159)
    for model, name in [(one, "text_encoder"), (two, "text_encoder_2"), (net, "transformer"), (v, "vae")]:
        store(model, f"{folder}/{name}")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.save_config(f"{folder}/scheduler")
    parts = dict(scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"], text_encoder=["transformers", "CLIPTextModel"],
                 text_encoder_2=["transformers", "T5EncoderModel"], tokenizer=["transformers", "CLIPTokenizer"],
                 tokenizer_2=["transformers", "T5TokenizerFast"], transformer=["diffusers", "FluxTransformer2DModel"],
                 vae=["diffusers", "AutoencoderKL"])
    index(folder, "FluxPipeline", parts)
    tok = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
    pipe = FluxPipeline(scheduler, v, one, tok, two, tok2, net)
    pipe.set_progress_bar_config(disable=True)
    prompt = "the cat in the red hat, on a tree!"
    states, pooled, _ = pipe.encode_prompt(prompt, prompt, max_sequence_length=256)
    refs = {"states": states, "pooled": pooled}
    start = noise((1, 4, 6, 8), 6)
    refs["start"] = start
    packed = pipe._pack_latents(start, 1, 4, 6, 8)
    final = pipe(prompt, num_inference_steps=3, guidance_scale=0.0, latents=packed, height=12, width=16,
                 max_sequence_length=256, output_type="latent").images
    refs["final"] = pipe._unpack_latents(final, 12, 16, pipe.vae_scale_factor)
    refs["vae_latent"] = noise((1, 4, 6, 8), 7)
    finish(folder, refs, dict(prompt=prompt, steps=3, guidance=0.0))


if __name__ == "__main__":
    with torch.no_grad():
        for kind in sys.argv[1:] or ["sd15", "sd21", "sdxl", "flux"]:
            {"sdxl": sdxl, "flux": flux}.get(kind, lambda: sd(kind))()
