"""Makes `vision/mobilenetv4-*` and `vision/timm.json`: checkpoints of MobileNetV4 as timm (with torchvision) builds and
publishes them, and what it gives for the two pictures that `make_vision.py` has made.

    python make_vision_timm.py

Of the blocks of each stage one of each kind is kept, and all are made narrow, so that a file has some dozens of kilobytes.
Weights are random and rounded to float16 before anything is computed, so that half the bytes hold them exactly.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models import mobilenetv3

HERE = Path(__file__).parent / "vision"


def rows_first(resize):
    """As in `make_vision.py`."""

    def both(picture, size, resample=None, **options):
        return resize(resize(picture, (size[0], picture.height), resample, **options), tuple(size), resample, **options)

    return both


Image.Image.resize = rows_first(Image.Image.resize)


def kinds(stage):
    """One block of each kind and stride."""
    found = {}
    for block in stage:
        once = re.sub(r"_r\d+_", "_r1_", block)
        found.setdefault(re.sub(r"[1-9]", "n", re.sub(r"_[ec]\d+", "", once).replace("s2", "st")), once)
    return list(found.values())


def build(variant, width, features, classes):
    """timm's own network, of `width` of its channels."""
    decode, create = mobilenetv3.decode_arch_def, mobilenetv3._create_mnv3
    mobilenetv3.decode_arch_def = lambda stages, **options: decode([kinds(stage) for stage in stages], **options)
    mobilenetv3._create_mnv3 = lambda variant, pretrained, **options: mobilenetv3.MobileNetV3(**{**options, "num_features": features, "stem_size": 8})
    try:
        return mobilenetv3._gen_mobilenet_v4(variant, width, num_classes=classes)
    finally:
        mobilenetv3.decode_arch_def, mobilenetv3._create_mnv3 = decode, create


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda like, scale: torch.randn(like.shape, generator=generator) * scale
    with torch.no_grad():
        for name, value in sorted(list(model.named_parameters()) + list(model.named_buffers())):
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                new = 1 + 0.3 * torch.rand(value.shape, generator=generator)
            elif value.dim() == 1 and name.endswith("weight"):
                new = 1 + draw(value, 0.2)
            elif value.dim() == 1:
                new = draw(value, 0.2)
            elif value.dim() == 4:
                new = draw(value, 1.5 / np.sqrt(value[0].numel()))
            else:
                new = draw(value, 0.5)
            value.copy_(new.half().float())
    return model.eval()


def main():
    pictures = [Image.open(HERE / name).convert("RGB") for name in ("cat.png", "tall.png")]
    half, imagenet = [0.5, 0.5, 0.5], ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    cases = {
        "mobilenetv4-small": ("mobilenetv4_conv_small", 0.1, {"input_size": [3, 48, 48], "test_input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 0.875, "test_crop_pct": 0.95, "crop_mode": "center", "mean": imagenet[0], "std": imagenet[1]}),
        "mobilenetv4-medium": ("mobilenetv4_conv_medium", 0.03, {"input_size": [3, 40, 40], "interpolation": "bilinear", "crop_pct": 0.95, "crop_mode": "squash", "mean": half, "std": half}),
        "mobilenetv4-large": ("mobilenetv4_conv_large", 0.01, {"input_size": [3, 33, 33], "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center", "mean": imagenet[0], "std": imagenet[1]}),
    }
    golden = {}
    for seed, (name, (variant, width, pretrained)) in enumerate(cases.items()):
        classes = 6 + seed
        model = randomize(build(variant, width, 24, classes), seed)
        transform = create_transform(**resolve_data_config(pretrained_cfg=pretrained), is_training=False)
        inputs = torch.stack([transform(picture) for picture in pictures])
        with torch.no_grad():
            # Scores whose probabilities all show.
            model.classifier.weight.mul_(2 / model(inputs).std())
            model.classifier.weight.copy_(model.classifier.weight.half().float())
            logits = model(inputs)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        tensors = {key: value.half().contiguous() for key, value in sorted(model.state_dict().items()) if value.is_floating_point()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        names = [f"n{index}" for index in range(classes)]
        config = {"architecture": variant, "num_classes": classes, "num_features": 24, "global_pool": "avg", "label_names": names, "label_descriptions": {name: f"label {index}" for index, name in enumerate(names)}, "pretrained_cfg": {**pretrained, "num_classes": classes, "first_conv": "conv_stem", "classifier": "classifier"}}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        golden[name] = [[float(f"{value:.7g}") for value in row.tolist()] for row in logits]
        print(name, sum(file.stat().st_size for file in folder.iterdir()), len(tensors), golden[name])
    (HERE / "timm.json").write_text(json.dumps(golden, indent=1) + "\n")


main()
