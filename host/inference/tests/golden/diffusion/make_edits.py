"""What diffusers makes of pictures to start from and of masks, and checkpoints of rarer kinds: a network of nine channels
for inpainting, one that knows the guidance (LCM), FLUX.1-dev, weights in shards.

    python make_edits.py            # after make_diffusion.py; writes beside itself: edits.safetensors, inpaint, lcm, flux-dev

A latent is the encoder's mean, not a sample, and all noise is one given tensor: neither framework's generator is part of
what is compared. Parts that a checkpoint here lacks are those of `sd15` or `flux`, whose folders they complete.
"""
import json, os, shutil
import numpy as np
import torch
from PIL import Image
from diffusers import (AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel,
                       LatentConsistencyModelPipeline, LCMScheduler, StableDiffusionImg2ImgPipeline,
                       StableDiffusionInpaintPipeline, StableDiffusionXLImg2ImgPipeline,
                       StableDiffusionXLInpaintPipeline, UNet2DConditionModel)
from diffusers import schedulers
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as image_1
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as mask_1
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as image_xl
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint as mask_xl
from diffusers.schedulers import scheduling_lcm
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

from make_diffusion import HERE, NEGATIVE, PROMPT, noise, randomize, unet

HEIGHT, WIDTH = 16, 24
NOISE = noise((1, 4, HEIGHT // 2, WIDTH // 2), 11)
for module in (image_1, mask_1, image_xl, mask_xl):
    module.randn_tensor = lambda *_, **__: NOISE
    module.retrieve_latents = lambda encoded, *_, **__: encoded.latent_dist.mode()


def picture():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    colours = [127 + 120 * np.sin(0.3 * x + 0.2 * y), 10 * x, 255 - 14 * y]
    return Image.fromarray(np.stack(colours, -1).round().clip(0, 255).astype(np.uint8))


def mask():
    light = np.zeros((HEIGHT, WIDTH), np.uint8)
    light[3:11, 5:18] = 200
    light[8:, :3] = 128
    light[0:4, 20:] = 127
    return Image.fromarray(light)


def colours(image):
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32))


def load(kind, network=None):
    """The parts of a Stable Diffusion checkpoint, their float16 weights widened."""
    folder = os.path.join(HERE, kind)
    index = json.load(open(f"{folder}/model_index.json"))
    variant = dict(variant="fp16") if kind == "sd15" else {}

    def encoder(name):
        of = CLIPTextModel if index[name][1] == "CLIPTextModel" else CLIPTextModelWithProjection
        return of.from_pretrained(f"{folder}/{name}", dtype=torch.float32, **variant).eval()

    parts = dict(
        vae=AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32, **variant).eval(),
        text_encoder=encoder("text_encoder"), tokenizer=CLIPTokenizer.from_pretrained(f"{folder}/tokenizer"),
        unet=network or UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=torch.float32, **variant).eval(),
        scheduler=getattr(schedulers, index["scheduler"][1]).from_pretrained(f"{folder}/scheduler"))
    if "text_encoder_2" in index:
        parts.update(text_encoder_2=encoder("text_encoder_2"), tokenizer_2=CLIPTokenizer.from_pretrained(f"{folder}/tokenizer_2"))
    else:
        parts.update(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return parts


def draw(pipeline, prompt=PROMPT, **call):
    pipeline.set_progress_bar_config(disable=True)
    call = dict(num_inference_steps=5, guidance_scale=4.0, output_type="latent", **call)
    return pipeline(prompt, negative_prompt=NEGATIVE, **call).images


def edits(refs):
    size = dict(height=HEIGHT, width=WIDTH)
    for kind in ("sd15", "sd21", "sdxl"):
        of, masked = ((StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline) if kind == "sdxl"
                      else (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline))
        for strength in (0.6, 1.0):
            refs[f"{kind}.image.{strength}"] = draw(of(**load(kind)), image=picture(), strength=strength)
            refs[f"{kind}.mask.{strength}"] = draw(masked(**load(kind)), image=picture(), mask_image=mask(),
                                                   strength=strength, **size)


def nine(refs):
    """A network that looks at the mask and at what is kept."""
    folder = os.path.join(HERE, "inpaint/unet")
    shutil.rmtree(folder, ignore_errors=True)
    network = unet(12, in_channels=9)
    for strength in (0.6, 1.0):
        refs[f"inpaint.mask.{strength}"] = draw(StableDiffusionInpaintPipeline(**load("sd15", network)), image=picture(),
                                                mask_image=mask(), strength=strength, height=HEIGHT, width=WIDTH)
    network.half().save_pretrained(folder)


def consistency(refs):
    """A latent consistency model, in shards as diffusers writes them."""
    folder = os.path.join(HERE, "lcm")
    shutil.rmtree(folder, ignore_errors=True)
    network = unet(13, time_cond_proj_dim=6)
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", original_inference_steps=50)
    scheduling_lcm.randn_tensor = lambda shape, **_: NOISE.flip(-1).reshape(shape)
    parts = {**load("sd15", network), "scheduler": scheduler}
    pipeline = LatentConsistencyModelPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    refs["lcm.final"] = pipeline(PROMPT, num_inference_steps=4, guidance_scale=6.0, latents=NOISE, height=HEIGHT,
                                 width=WIDTH, output_type="latent").images
    network.half().save_pretrained(f"{folder}/unet", max_shard_size="20KB")
    scheduler.save_pretrained(f"{folder}/scheduler")


def flux_dev(refs):
    """FLUX.1-dev: a network that knows the guidance, times shifted by the picture's size, both networks in shards."""
    folder, base = os.path.join(HERE, "flux-dev"), os.path.join(HERE, "flux")
    shutil.rmtree(folder, ignore_errors=True)
    network = randomize(FluxTransformer2DModel(patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
                                               attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8,
                                               pooled_projection_dim=8, axes_dims_rope=(2, 2, 4), guidance_embeds=True), 14)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
                                                base_image_seq_len=256, max_image_seq_len=4096)
    words = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    five = T5EncoderModel.from_pretrained(f"{base}/text_encoder_2", dtype=torch.float32).eval()
    pipeline = FluxPipeline(
        scheduler, AutoencoderKL.from_pretrained(f"{base}/vae", torch_dtype=torch.float32),
        CLIPTextModel.from_pretrained(f"{base}/text_encoder", dtype=torch.float32),
        CLIPTokenizer.from_pretrained(f"{base}/tokenizer"), five,
        PreTrainedTokenizerFast(tokenizer_file=f"{base}/tokenizer_2/tokenizer.json", **words), network)
    pipeline.set_progress_bar_config(disable=True)
    prompt = json.load(open(f"{base}/reference.json"))["prompt"]
    packed = pipeline._pack_latents(NOISE, 1, 4, HEIGHT // 2, WIDTH // 2)
    final = pipeline(prompt, num_inference_steps=3, guidance_scale=3.5, latents=packed, height=HEIGHT, width=WIDTH,
                     max_sequence_length=512, output_type="latent").images
    refs["flux-dev.final"] = pipeline._unpack_latents(final, HEIGHT, WIDTH, pipeline.vae_scale_factor)
    network.half().save_pretrained(f"{folder}/transformer", max_shard_size="25KB")
    five.half().save_pretrained(f"{folder}/text_encoder_2", max_shard_size="3KB")
    scheduler.save_pretrained(f"{folder}/scheduler")


if __name__ == "__main__":
    found = {"picture": colours(picture()), "mask": colours(mask()), "noise": NOISE, "lcm.fresh": NOISE.flip(-1)}
    with torch.no_grad():
        for part in (edits, nine, consistency, flux_dev):
            part(found)
    save_file({name: value.detach().float().contiguous() for name, value in found.items()},
              os.path.join(HERE, "edits.safetensors"))
