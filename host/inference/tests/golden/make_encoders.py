"""Makes tiny encoders of random weights, one folder each in encoders/, and what they give for a few texts.

    python make_encoders.py        with torch, transformers 5.24 and tokenizers 0.23

Weights are rounded to half precision before anything is computed, so that the files are small and exact; the
references are transformers' in float32. Its nomic_bert and gte are the native ones, whose tensors are written here
under the names of the published checkpoints. Of Jina's BERT transformers has no code: the reference is the class
JinaBert below, written from the published description (BERT with ALiBi in both directions and GEGLU blocks).
"""

import json
import math
import random
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent / "encoders"
TEXTS = [
    "The cat sits on the mat.",
    "Paris is the capital of France, and Berlin of Germany!",
    "naïve café 東京 42",
    "x",
    "the quick brown fox jumps over the lazy dog near Paris " * 3,
    "a cat and a dog and a fox in Berlin " * 9,
]
PAIRS = [
    ("Where is Paris?", "Paris is the capital of France."),
    ("Where is Paris?", "The cat sits on the mat."),
    ("quick fox", "the quick brown fox jumps over the lazy dog " * 4),
]
SIZES = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)


def tokenizer(kind):
    corpus = TEXTS + [text for pair in PAIRS for text in pair]
    if kind == "wordpiece":
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=110, special_tokens=specials, show_progress=False)
        made.train_from_iterator([text for text in corpus if "東" not in text], trainer)
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return made
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=290, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False)
        made.train_from_iterator(corpus, trainer)
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        return made
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(corpus, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


def randomize(model, seed):
    """Weights large enough that every part matters, in half precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            norm = weight.ndim == 1 and name.endswith("weight")
            scale = 0.25 if weight.ndim == 2 else 0.15
            weight.copy_((noise * scale + (1.0 if norm else 0.0)).half().float())
    return model.eval()


def states(model, ids, types):
    inputs = dict(input_ids=torch.tensor([ids]))
    if types is not None:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        return model(**inputs)


def numbers(tensor):
    return [float(f"{value:.8g}") for value in tensor.flatten().tolist()]


def unit(vector):
    return numbers(torch.nn.functional.normalize(vector.double(), dim=0))


def write(name, model, base, tok, config, typed, rename=lambda tensors: tensors, extra=None):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    tensors = rename({key: value.detach().clone() for key, value in model.state_dict().items()})
    tensors = {key: value.half().contiguous() for key, value in tensors.items()
               if value.is_floating_point() and "inv_freq" not in key}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    reference = {"texts": [], "pairs": []}
    for text in TEXTS:
        encoding = tok.encode(text)
        out = states(base, encoding.ids, encoding.type_ids if typed else None)[0][0]
        entry = {"text": text, "ids": encoding.ids, "mean": unit(out.mean(0)), "cls": unit(out[0]), "last": unit(out[-1])}
        if model is not base:
            logits = states(model, encoding.ids, encoding.type_ids if typed else None).logits[0]
            if logits.ndim == 1:
                entry["logits"] = numbers(logits)
        reference["texts"].append(entry)
    if model is not base and model.config.num_labels == 1:
        for first, second in PAIRS:
            encoding = tok.encode(first, second)
            logits = states(model, encoding.ids, encoding.type_ids if typed else None).logits[0]
            reference["pairs"].append(
                {"query": first, "text": second, "ids": encoding.ids, "logit": numbers(logits)[0]})
    if extra:
        reference.update(extra)
    (folder / "reference.json").write_text(json.dumps(reference, ensure_ascii=False) + "\n")


def labels(*names):
    return dict(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


def plain(config, architecture, **changes):
    kept = config.to_dict()
    for key in ["transformers_version", "dtype", "_name_or_path", "torch_dtype"]:
        kept.pop(key, None)
    return {**kept, "architectures": [architecture], **changes}


def berts():
    tok = tokenizer("wordpiece")
    size = dict(SIZES, vocab_size=tok.get_vocab_size(), max_position_embeddings=160, pad_token_id=0)
    config = tf.BertConfig(**size, **labels("LABEL_0"))
    model = randomize(tf.BertForSequenceClassification(config), 1)
    write("bert_rerank", model, model.bert, tok, plain(config, "BertForSequenceClassification"), True)

    config = tf.BertConfig(**size, **labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"))
    model = tf.BertForTokenClassification(config)
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=tok, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    # Random weights prefer one label; these do not, and have spans that begin, go on and are outside.
    for seed in range(5, 400):
        randomize(model, seed)
        ids = torch.tensor([tok.encode(TEXTS[1]).ids])
        chosen = model(ids).logits[0].argmax(-1)[1:-1].tolist()
        if len(set(chosen)) >= 4 and 0 in chosen and any(
                (one, two) in [(1, 1), (3, 3), (1, 2), (3, 4)] for one, two in zip(chosen, chosen[1:])):
            break
    else:
        raise SystemExit("no seed gives varied labels")
    ner = tf.pipeline("token-classification", model=model, tokenizer=fast, aggregation_strategy="simple", device="cpu")
    entities = [[{**entity, "score": float(entity["score"])} for entity in ner(text)] for text in TEXTS]
    write("bert_ner", model, model.bert, tok, plain(config, "BertForTokenClassification"), True,
          extra={"entities": entities})

    config = tf.DistilBertConfig(
        vocab_size=size["vocab_size"], dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=160,
        **labels("NEGATIVE", "POSITIVE"))
    model = randomize(tf.DistilBertForSequenceClassification(config), 2)
    write("distilbert", model, model.distilbert, tok, plain(config, "DistilBertForSequenceClassification"), False)


def robertas():
    tok = tokenizer("bpe")
    size = dict(SIZES, max_position_embeddings=170, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)
    config = tf.RobertaConfig(
        **size, vocab_size=tok.get_vocab_size(), problem_type="multi_label_classification",
        **labels("joy", "anger", "fear"))
    model = randomize(tf.RobertaForSequenceClassification(config), 3)
    write("roberta", model, model.roberta, tok, plain(config, "RobertaForSequenceClassification"), False)
    tok = tokenizer("unigram")
    size.update(max_position_embeddings=400)
    config = tf.XLMRobertaConfig(**size, vocab_size=tok.get_vocab_size(), **labels("LABEL_0"))
    model = randomize(tf.XLMRobertaForSequenceClassification(config), 4)
    write("xlm_roberta", model, model.roberta, tok, plain(config, "XLMRobertaForSequenceClassification"), False)


def nomic():
    tok = tokenizer("wordpiece")
    config = tf.NomicBertConfig(**SIZES, vocab_size=tok.get_vocab_size(), max_position_embeddings=160)
    model = randomize(tf.NomicBertModel(config), 6)

    def rename(tensors):
        renamed = {}
        for key, value in tensors.items():
            key = key.replace("embeddings.LayerNorm", "emb_ln").replace("self_attn.o_proj", "attn.out_proj")
            key = key.replace("up_proj", "fc11").replace("gate_proj", "fc12").replace("down_proj", "fc2")
            key = key.replace("post_attention_layernorm", "norm1").replace("post_mlp_layernorm", "norm2")
            renamed["encoder." + key if key.startswith("layers.") else key] = value
        for layer in range(2):
            parts = [renamed.pop(f"encoder.layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
            renamed[f"encoder.layers.{layer}.attn.Wqkv.weight"] = torch.cat(parts)
        return renamed

    published = dict(
        model_type="nomic_bert", architectures=["NomicBertModel"], vocab_size=config.vocab_size, n_embd=24, n_layer=2,
        n_head=3, n_inner=40, activation_function="swiglu", n_positions=160, max_trained_positions=160,
        type_vocab_size=2, layer_norm_epsilon=1e-12, prenorm=False, parallel_block=False, use_rms_norm=False,
        qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False, rotary_emb_base=1000, rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False, rotary_emb_scale_base=None, causal=False)
    write("nomic", model, model, tok, published, True, rename)


def gte():
    tok = tokenizer("unigram")
    config = tf.GteConfig(
        **SIZES, vocab_size=tok.get_vocab_size(), max_position_embeddings=400, **labels("LABEL_0"),
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    model = randomize(tf.GteForSequenceClassification(config), 7)

    def rename(tensors):
        renamed = {}
        for key, value in tensors.items():
            key = key.replace("gte.layers.", "gte.encoder.layer.").replace("gte.", "new.")
            key = key.replace("self_attn.o_proj", "attention.o_proj")
            key = key.replace("post_attention_layernorm", "attn_ln").replace("post_mlp_layernorm", "mlp_ln")
            renamed[key] = value
        for layer in range(2):
            at = f"new.encoder.layer.{layer}."
            for suffix in ["weight", "bias"]:
                parts = [renamed.pop(f"{at}self_attn.{part}_proj.{suffix}") for part in "qkv"]
                renamed[f"{at}attention.qkv_proj.{suffix}"] = torch.cat(parts)
            parts = [renamed.pop(f"{at}mlp.{part}_proj.weight") for part in ["up", "gate"]]
            renamed[f"{at}mlp.up_gate_proj.weight"] = torch.cat(parts)
        return renamed

    published = dict(
        model_type="new", architectures=["NewForSequenceClassification"], **SIZES, vocab_size=config.vocab_size,
        hidden_act="gelu", layer_norm_type="layer_norm", layer_norm_eps=1e-12, max_position_embeddings=400,
        position_embedding_type="rope", rope_theta=20000.0, rope_scaling=None, type_vocab_size=1, pack_qkv=True,
        logn_attention_scale=False, **labels("LABEL_0"))
    write("gte", model, model.gte, tok, published, False, rename)


def modern():
    tok = tokenizer("bpe")
    config = tf.ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 4}, vocab_size=tok.get_vocab_size(), max_position_embeddings=170,
        local_attention=16, global_attn_every_n_layers=3, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        cls_token_id=0, sep_token_id=2, classifier_pooling="mean", **labels("no", "yes"))
    config._attn_implementation = "eager"
    model = randomize(tf.ModernBertForSequenceClassification(config), 8)
    published = plain(config, "ModernBertForSequenceClassification", local_attention=16)
    write("modernbert", model, model.model, tok, published, False)


class JinaBert(torch.nn.Module):
    """BERT's sizes and norms; scores fall with the distance by ALiBi's slopes; `wo(gelu(gate) * value)`."""

    def __init__(self, words, hidden, layers, heads, inner):
        super().__init__()
        nn, self.heads = torch.nn, heads
        self.embeddings = nn.ModuleDict(dict(
            word_embeddings=nn.Embedding(words, hidden), token_type_embeddings=nn.Embedding(2, hidden),
            LayerNorm=nn.LayerNorm(hidden, 1e-12)))
        self.encoder = nn.ModuleDict(dict(layer=nn.ModuleList([nn.ModuleDict(dict(
            attention=nn.ModuleDict({
                "self": nn.ModuleDict({part: nn.Linear(hidden, hidden) for part in ["query", "key", "value"]}),
                "output": nn.ModuleDict(dict(dense=nn.Linear(hidden, hidden), LayerNorm=nn.LayerNorm(hidden, 1e-12)))}),
            mlp=nn.ModuleDict(dict(
                gated_layers=nn.Linear(hidden, 2 * inner, bias=False), wo=nn.Linear(inner, hidden),
                layernorm=nn.LayerNorm(hidden, 1e-12))))) for _ in range(layers)])))

    def slopes(self):
        def powers(count):
            return [2 ** (-8 * (power + 1) / count) for power in range(count)]
        whole = 2 ** math.floor(math.log2(self.heads))
        return torch.tensor((powers(whole) + powers(2 * whole)[0::2])[:self.heads])

    def forward(self, input_ids, token_type_ids):
        x = self.embeddings["word_embeddings"](input_ids) + self.embeddings["token_type_embeddings"](token_type_ids)
        x = self.embeddings["LayerNorm"](x)
        place = torch.arange(x.shape[1])
        bias = -self.slopes()[:, None, None] * (place[:, None] - place[None, :]).abs()
        for layer in self.encoder["layer"]:
            attention = layer["attention"]
            split = lambda part: attention["self"][part](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            query, key, value = split("query"), split("key"), split("value")
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
            context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
            x = attention["output"]["LayerNorm"](x + attention["output"]["dense"](context))
            gate, inner = layer["mlp"]["gated_layers"](x).chunk(2, -1)
            inner = torch.nn.functional.gelu(gate) * inner
            x = layer["mlp"]["layernorm"](x + layer["mlp"]["wo"](inner))
        return (x,)


def jina():
    tok = tokenizer("wordpiece")
    model = randomize(JinaBert(tok.get_vocab_size(), 24, 2, 3, 40), 9)
    published = dict(
        model_type="bert", architectures=["JinaBertForMaskedLM"], **SIZES, vocab_size=tok.get_vocab_size(),
        max_position_embeddings=160, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu",
        position_embedding_type="alibi", feed_forward_type="geglu", emb_pooler="mean")
    write("jina", model, model, tok, published, True)


random.seed(0)
torch.manual_seed(0)
for make in [berts, robertas, nomic, gte, modern, jina]:
    make()
