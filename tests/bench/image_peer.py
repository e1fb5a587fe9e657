"""The peer of `cargo xtask bench image`: diffusers and transformers on the processor, in float32.

usage: image_peer.py make FOLDER                     writes checkpoints of random weights in the published sizes
       image_peer.py draw FOLDER --size N …          a text, a guided step and a decoding, one JSON object
       image_peer.py look FOLDER PICTURE …           a picture, decoded, scaled and seen, one JSON object
"""
import argparse
import json
import os
import time

import numpy as np
import torch

PROMPT = "a"
TIME = 501


def files(folder, contents):
    os.makedirs(folder, exist_ok=True)
    for name, text in contents.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))


def save(model, folder):
    """As published: half precision."""
    model.half().save_pretrained(folder)


def make_drawing(folder):
    """Stable Diffusion 1.5's sizes. The words are few: what a text says is of no matter here."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    scheduler = dict(_class_name="DDIMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                     steps_offset=1, set_alpha_to_one=False, clip_sample=False)
    classes = dict(text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"],
                   unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"],
                   scheduler=["diffusers", "DDIMScheduler"])
    files(folder, {"model_index.json": dict(_class_name="StableDiffusionPipeline", **classes)})
    files(f"{folder}/scheduler", {"scheduler_config.json": scheduler})
    vocab = {"a</w>": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    files(f"{folder}/tokenizer", {"vocab.json": vocab, "merges.txt": "#version: 0.2\n"})
    text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12,
                                        num_hidden_layers=12, bos_token_id=49406, eos_token_id=49407))
    save(text, f"{folder}/text_encoder")
    save(UNet2DConditionModel(sample_size=64, cross_attention_dim=768), f"{folder}/unet")
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
                        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    save(vae, f"{folder}/vae")


def make_looking(folder):
    import transformers as t

    mean, std = [0.5] * 3, [0.5] * 3
    square = dict(do_resize=True, do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=mean,
                  image_std=std, resample=2)
    labels = dict(id2label={index: f"label {index}" for index in range(1000)})
    vit = t.ViTForImageClassification(t.ViTConfig(**labels))
    vit_size = dict(square, image_processor_type="ViTImageProcessor", size=dict(height=224, width=224))
    resnet = t.ResNetForImageClassification(t.ResNetConfig(**labels))
    resnet_size = dict(square, image_processor_type="ConvNextImageProcessor", size=dict(shortest_edge=224),
                       crop_pct=0.875, resample=3)
    clip = t.CLIPModel(t.CLIPConfig())
    clip_size = dict(square, image_processor_type="CLIPImageProcessor", size=dict(shortest_edge=224),
                     do_center_crop=True, crop_size=dict(height=224, width=224), do_convert_rgb=True, resample=3)
    for name, model, size in [("vit", vit, vit_size), ("resnet", resnet, resnet_size), ("clip", clip, clip_size)]:
        save(model, f"{folder}/{name}")
        files(f"{folder}/{name}", {"preprocessor_config.json": size})
    from tokenizers import Tokenizer, models

    vocab = {"a</w>": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    Tokenizer(models.BPE(vocab, [], end_of_word_suffix="</w>")).save(f"{folder}/clip/tokenizer.json")


def make(arguments):
    torch.manual_seed(0)
    with torch.inference_mode():
        make_drawing(f"{arguments.folder}/sd15")
        make_looking(arguments.folder)


def fastest(repeat, call):
    """The least time of some calls after a first one, and what they give."""
    value, times = call(), []
    for _ in range(repeat):
        start = time.perf_counter()
        value = call()
        times.append(time.perf_counter() - start)
    return min(times), value


def beginning(values):
    return [float(value) for value in values.flatten()[:16]]


def latent(size):
    """The same smooth values on both sides, of every pixel its four channels one after another."""
    values = np.sin(0.37 * np.arange(size * size * 4)).astype(np.float32)
    return torch.from_numpy(values.reshape(1, size, size, 4)).permute(0, 3, 1, 2).contiguous()


def draw(arguments):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder, single = arguments.folder, torch.float32
    tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
    text = CLIPTextModel.from_pretrained(f"{folder}/text_encoder", dtype=single).eval()
    found = {}

    def record(name, measured):
        found[name], value = measured
        found[f"{name}_values"] = beginning(value)
        return value

    def read():
        ids = tokenizer([PROMPT], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return text(ids).last_hidden_state

    states = record("text", fastest(arguments.repeat, read))
    del text
    unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=single).eval()
    vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=single)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    x = latent(arguments.size // factor)
    # With and without the prompt in one batch, as the pipelines do.
    both = torch.cat([x, x]), torch.cat([states, torch.zeros_like(states)])

    def step():
        return unet(both[0], TIME, encoder_hidden_states=both[1]).sample.permute(0, 2, 3, 1)

    record("step", fastest(arguments.repeat, step))
    del unet
    record("decode", fastest(arguments.repeat, lambda: vae.decode(x).sample.permute(0, 2, 3, 1)))
    print(json.dumps(found))


def look(arguments):
    import transformers as t
    from PIL import Image

    folder = arguments.folder
    kind = json.load(open(f"{folder}/config.json"))["model_type"]
    classes = {
        "vit": (t.ViTForImageClassification, "vit", "ViT"),
        "resnet": (t.ResNetForImageClassification, "convnext", "ConvNext"),
        "clip": (t.CLIPModel, "clip", "CLIP"),
    }
    of, module, name = classes[kind]
    module = __import__(f"transformers.models.{module}.image_processing_pil_{module}", fromlist=["x"])
    processor = getattr(module, f"{name}ImageProcessorPil").from_pretrained(folder)
    model = of.from_pretrained(folder, dtype=torch.float32).eval()

    def call():
        pixels = processor(Image.open(arguments.picture).convert("RGB"), return_tensors="pt").pixel_values
        if kind == "clip":
            found = model.get_image_features(pixel_values=pixels)
            vector = getattr(found, "pooler_output", found)
            return vector / vector.norm(dim=-1, keepdim=True)
        return model(pixels).logits.softmax(-1)

    seconds, value = fastest(arguments.repeat, call)
    values = value if kind == "clip" else value.sort(descending=True).values
    print(json.dumps(dict(seconds=seconds, values=beginning(values))))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("make").add_argument("folder")
    for name in ["draw", "look"]:
        task = tasks.add_parser(name)
        task.add_argument("folder")
        if name == "look":
            task.add_argument("picture")
        else:
            task.add_argument("--size", type=int, default=512)
        task.add_argument("--threads", type=int, default=1)
        task.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(getattr(arguments, "threads", os.cpu_count()))
    with torch.inference_mode():
        {"make": make, "draw": draw, "look": look}[arguments.task](arguments)


if __name__ == "__main__":
    main()
