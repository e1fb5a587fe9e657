"""Makes the fixtures in `synthesis/`: tiny VITS checkpoints of random weights under their published tensor names, what
transformers (float32) gives at each stage for fixed ids and noise, and what its tokenizer makes of texts.

    python make_synthesis.py

`letters` is shaped like MMS-TTS: one voice, a stochastic duration predictor, normalized weights in today's spelling
(`parametrizations.weight.original0`). `phonemes` is shaped like VITS of VCTK: several voices, here with the deterministic
predictor, growing dilations and the older spelling (`weight_g`). Weights are rounded to float16 before anything is
computed, so that half the bytes hold them exactly.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import VitsConfig, VitsModel, VitsTokenizer
from transformers.models.vits import modeling_vits

HERE = Path(__file__).parent / "synthesis"

SMALL = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    window_size=4,
    ffn_dim=24,
    flow_size=8,
    spectrogram_bins=5,
    upsample_initial_channel=16,
    prior_encoder_num_flows=2,
    posterior_encoder_num_wavenet_layers=1,
)
LETTERS = dict(
    prior_encoder_num_wavenet_layers=3,
    upsample_rates=[4, 2],
    upsample_kernel_sizes=[8, 4],
    resblock_kernel_sizes=[3, 7],
    resblock_dilation_sizes=[[1, 3], [1, 5]],
)
PHONEMES = dict(
    prior_encoder_num_wavenet_layers=2,
    wavenet_kernel_size=3,
    wavenet_dilation_rate=2,
    use_bias=False,
    ffn_kernel_size=4,
    hidden_act="gelu",
    use_stochastic_duration_prediction=False,
    duration_predictor_filter_channels=12,
    num_speakers=3,
    speaker_embedding_size=6,
    upsample_rates=[2, 3],
    upsample_kernel_sizes=[4, 7],
    resblock_kernel_sizes=[3, 5],
    resblock_dilation_sizes=[[1, 2], [2, 3]],
    sampling_rate=22050,
    noise_scale=0.5,
    speaking_rate=0.8,
)
# As in the published models of English: the padding is a letter of the alphabet.
ALPHABET = "k'zyuxts rqponmljihgfedcba_-wv06"
IPA = "_;:,.!? abdefhijklmnoprstuvwzæðŋɑɔəɛɡɪɹʃʊʌʒθˈˌː"
TEXTS = [
    "like", "kit", "kk", "Kick it, Jack!", " Hello   World ", "a <unk> b", "É café", "K", "", "!!!", "a\nb", "İk",
    "rock k", "0 and 6", "ΣΑΣ", "straße",
]


def randomize(model, seed, std=0.15):
    """Weights large enough that every part shows in the result."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda like, scale: torch.randn(like.shape, generator=generator) * scale
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            if "norm" in name and name.endswith("weight") or name.endswith("original0"):
                value.copy_(1 + draw(value, 0.2))
            elif "embed_tokens" in name:
                value.copy_(draw(value, 0.5))
            elif "project" in name:
                value.copy_(draw(value, 0.3))
            elif name.endswith("flows.0.translate"):
                value.copy_(draw(value, std) - 1)  # Tokens of some frames each.
            elif name == "duration_predictor.proj.bias":
                value.copy_(draw(value, std) + 1)
            else:
                value.copy_(draw(value, std))
            value.copy_(value.half().float())


def spelled(name, older):
    if older:
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
    return name


class Noise:
    """Gives the noise that the test feeds in too, and keeps it."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.given = []

    def randn(self, *shape, **_):
        self.given.append(torch.randn(*shape, generator=self.generator))
        return self.given[-1]

    def randn_like(self, like):
        return self.randn(*like.shape)


def stages(model, ids, speaker, seed):
    kept = {}
    hooks = [
        model.text_encoder.register_forward_hook(lambda _, __, out: kept.update(encoded=out)),
        model.duration_predictor.register_forward_hook(lambda _, __, out: kept.update(log_durations=out)),
        model.flow.register_forward_hook(lambda _, __, out: kept.update(latents=out)),
        model.flow.register_forward_pre_hook(lambda _, given: kept.update(prior=given[0])),
    ]
    noise = Noise(seed)

    class Torch:
        def __getattr__(self, name):
            return getattr(noise if name in ("randn", "randn_like") else torch, name)

    modeling_vits.torch, before = Torch(), modeling_vits.torch
    with torch.no_grad():
        out = model(torch.tensor([ids]), speaker_id=speaker)
    modeling_vits.torch = before
    for hook in hooks:
        hook.remove()
    encoded = kept["encoded"]
    found = {
        "states": encoded.last_hidden_state[0],
        "means": encoded.prior_means[0],
        "log_variances": encoded.prior_log_variances[0],
        "log_durations": kept["log_durations"][0, 0],
        "prior_noise": noise.given[-1][0].T,
        "prior": kept["prior"][0].T,
        "latents": kept["latents"][0].T,
        "waveform": out.waveform[0],
    }
    if len(noise.given) == 2:
        found["duration_noise"] = noise.given[0][0]
    return {name: value.contiguous() for name, value in found.items()}


def make(name, shape, vocabulary, seed, speaker, older):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    config = VitsConfig(vocab_size=len(vocabulary), **{**SMALL, **shape})
    config._attn_implementation = "eager"
    model = VitsModel(config).eval()
    randomize(model, seed)
    # What hears recordings in training is no part of speaking.
    weights = {
        spelled(key, older): value.half().contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith(("posterior_encoder", "duration_predictor.post_"))
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    ids = torch.randint(1, len(vocabulary), (23,), generator=torch.Generator().manual_seed(seed + 1)).tolist()
    found = stages(model, ids, speaker, seed + 2)
    durations = torch.ceil(torch.exp(found["log_durations"]) / config.speaking_rate)
    print(name, sum(value.numel() for value in weights.values()), "weights; durations", durations.int().tolist())
    print("  waveform", tuple(found["waveform"].shape), "of", float(found["waveform"].abs().max()))
    save_file(found, folder / "stages.safetensors")
    return ids


def tokenizer(name, vocabulary, **options):
    folder = HERE / name
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    tokenizer = VitsTokenizer(str(folder / "vocab.json"), **options)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    return tokenizer


def main():
    letters = {letter: index for index, letter in enumerate(ALPHABET)}
    phonemes = {letter: index for index, letter in enumerate(IPA)}
    ids = {
        "letters": make("letters", LETTERS, letters, 3, None, False),
        "phonemes": make("phonemes", PHONEMES, phonemes, 7, 2, True),
    }
    english = tokenizer("letters", letters, pad_token="k", unk_token="<unk>", language="eng", phonemize=False)
    plain = VitsTokenizer(str(HERE / "letters/vocab.json"), pad_token="k", unk_token="<unk>", language="ron",
                          add_blank=False, normalize=False, phonemize=False)
    tokenizer("phonemes", phonemes, pad_token="_", unk_token="<unk>", language="eng", phonemize=True)
    tokens = {
        "normalized": [[text, english(text)["input_ids"]] for text in TEXTS],
        "plain": [[text, plain(text)["input_ids"]] for text in TEXTS + ["țară", "x<unk>y"]],
    }
    golden = {"ids": ids, "speaker": {"phonemes": 2}, "tokens": tokens}
    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=False))


main()
