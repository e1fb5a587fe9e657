"""Gives the checkpoints in seq2seq/ their tokenizers, and says what transformers makes of texts with them.

    python make_seq2seq_texts.py        (after make_seq2seq.py; needs torch, transformers, sentencepiece, tokenizers)

Vocabularies are tiny, since the models are: SentencePiece models for Marian (unigram, one for each side) and M2M-100
(byte pairs), with a small map of characters that holds what published ones do; tokenizer.json files for the others.
`texts.json` has for each checkpoint the tokens of hard texts and the text of tokens, and whole answers.
"""

import json
import os
import pathlib
import shutil
import tempfile

import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent / "seq2seq"
CORPUS = ["the cat sat on the mat and the dog ran to the cat", "a man and a dog ran on", "that hat is on the cat",
          "dogs and cats are not mats", "so this is that and that is it", "ten men ran to the den in the rain"] * 20
# Fullwidth letters, a ligature, a composed accent, a vanishing character, several spaces.
MAP = {"Ａ": "a", "ｔ": "t", "ﬁ": "fi", "e\u0301": "é", "\u200b": "", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ",
       "①": "1", "ß": "ss", "e\u0301\u0302": "ê"}
TEXTS = [
    "the cat sat on the mat", "  two   spaces and more  ", "", " ", "Ａ ｔhe ﬁt", "cafe\u0301 e\u0301\u0302 \u00e9",
    "日本語 the 日本", "a\u200bb\u3000c", "tab\there\nline", "①②③ dogs", ">>fr<< the cat", ">>xx<< the", "<unk> </s> <pad>",
    "thethethethe", "\u2581the \u2581 cat", "🙂 and 👨‍👩‍👧", "x" * 50, "Straße ß", "a\u0301 n\u0303", "the\u00a0cat",
    "__en__ the", "e\u0301", "\u0301", "ran to the den in the rain, and that is it.",
]


def spm(path, size, kind, seed):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus = folder / "corpus.txt"
        corpus.write_text("\n".join(CORPUS[seed:] + ["x" * (seed + 1)]) + "\n")
        rules = folder / "rules.tsv"
        code = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in MAP.items()))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(folder / "m"), vocab_size=size, model_type=kind,
            normalization_rule_tsv=str(rules), character_coverage=1.0, hard_vocab_limit=False, bos_id=-1, pad_id=-1,
            unk_id=1 if kind == "unigram" else 0, eos_id=0 if kind == "unigram" else 1, minloglevel=2,
            user_defined_symbols=["<own>"] if kind == "bpe" else [])
        shutil.copy(folder / "m.model", path)
    os.chmod(path, 0o644)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=None) + "\n")


def marian():
    folder = HERE / "marian"
    pieces = spm(folder / "source.spm", 44, "unigram", 0)
    pieces += [piece for piece in spm(folder / "target.spm", 36, "unigram", 1) if piece not in pieces]
    pieces = ["</s>", "<unk>"] + [piece for piece in pieces if piece not in ("</s>", "<unk>")][:59]
    pieces = pieces[:61] + [f"▁w{index}" for index in range(61 - len(pieces))]
    pieces += [">>fr<<", ">>deu<<", "<pad>"]
    vocab = {piece: index for index, piece in enumerate(pieces[:-1])} | {"<pad>": 63}
    write(folder / "vocab.json", vocab)
    write(folder / "tokenizer_config.json", dict(tokenizer_class="MarianTokenizer", source_lang="eng", target_lang=None))
    return transformers.MarianTokenizer(str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"))


def m2m_100():
    folder = HERE / "m2m_100"
    pieces = spm(folder / "sentencepiece.bpe.model", 44, "bpe", 0)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = special + [piece for piece in pieces if piece not in special][:44]
    pieces += [f"▁w{index}" for index in range(48 - len(pieces))]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    write(folder / "vocab.json", vocab)
    write(folder / "tokenizer_config.json", dict(tokenizer_class="M2M100Tokenizer", language_codes="wmt21"))
    return transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"),
                                        language_codes="wmt21", src_lang="en")


def unigram(size, special):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.model"
        spm(path, size, "unigram", 0)
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(2, processor.get_piece_size())]
    vocab = [(token, 0.0) for token in special] + pieces
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=special.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer, len(vocab)


def added(tokenizer, tokens):
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def wrapped(tokenizer, **names):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def t5(name):
    tokenizer, _ = unigram(56, ["<pad>", "</s>", "<unk>"])
    added(tokenizer, ["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(HERE / name / "tokenizer.json"), pretty=False)
    return wrapped(tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def mbart():
    tokenizer, size = unigram(50, ["<s>", "<pad>", "</s>", "<unk>"])
    added(tokenizer, ["<s>", "<pad>", "</s>", "<unk>", "en_XX", "ro_RO", "de_DE"])
    assert tokenizer.get_vocab_size() <= 64
    tokenizer.save(str(HERE / "mbart" / "tokenizer.json"), pretty=False)
    write(HERE / "mbart" / "tokenizer_config.json", dict(tokenizer_class="MBartTokenizer"))
    return wrapped(tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token="<s>")


def bart():
    letters = "abcdefghijklmnoprstxyĠ.,Ãł©ĥ"
    vocab = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "c"), ("Ġc", "at"), ("a", "n"), ("an", "d")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added(tokenizer, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(HERE / "bart" / "tokenizer.json"), pretty=False)
    return wrapped(tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token="<s>")


MODELS = {
    "marian": (marian, transformers.MarianMTModel), "m2m_100": (m2m_100, transformers.M2M100ForConditionalGeneration),
    "t5": (lambda: t5("t5"), transformers.T5ForConditionalGeneration),
    "flan_t5": (lambda: t5("flan_t5"), transformers.T5ForConditionalGeneration),
    "mbart": (mbart, transformers.MBartForConditionalGeneration), "bart": (bart, transformers.BartForConditionalGeneration),
}
LANGUAGES = {"marian": ("en", "fr"), "m2m_100": ("ru", "de"), "mbart": ("en", "ro")}
SUMMARY = dict(max_length=18, min_length=5, num_beams=3, length_penalty=2.0, early_stopping=True, no_repeat_ngram_size=3)
ANSWERS = ["the cat sat on the mat", "that is it and that is that", "ten men ran in the rain to the den of the cat"]


def answer(name, tokenizer, model, text):
    """As the engine is to answer: a translation, or a summary of BART's."""
    config = json.loads((HERE / name / "generation_config.json").read_text())
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    if name == "bart":
        config |= SUMMARY
        ids = tokenizer(text)["input_ids"]
    elif name == "marian":
        ids = [tokenizer.encoder[">>fr<<"]] + plain + [0]
    elif name == "m2m_100":
        ids = [tokenizer.get_lang_id("ru")] + plain + [2]
        config["forced_bos_token_id"] = tokenizer.get_lang_id("de")
    elif name == "mbart":
        ids = plain + [2, tokenizer.convert_tokens_to_ids("en_XX")]
        config["decoder_start_token_id"] = tokenizer.convert_tokens_to_ids("ro_RO")
    else:
        ids = tokenizer("translate English to German: " + text)["input_ids"]
    model.generation_config = transformers.GenerationConfig(**config)
    with torch.no_grad():
        found = model.generate(torch.tensor([ids]))[0].tolist()
    return told(name, tokenizer, found)


def told(name, tokenizer, tokens):
    """The text of tokens without those of languages and those that are made up, which this version of transformers takes
    for words."""
    first = {"marian": 61, "m2m_100": 48}.get(name, 64)
    tokens = [token for token in tokens if token < first]
    return tokenizer.decode(tokens, skip_special_tokens=True).strip()


def main():
    reference = {}
    for name, (build, architecture) in MODELS.items():
        tokenizer = build()
        config = json.loads((HERE / name / "config.json").read_text())
        options = dict(config)
        for key in ("model_type", "architectures", "forced_bos_token_id", "forced_eos_token_id", "task_specific_params"):
            options.pop(key, None)
        kind = architecture.config_class(**options)
        if options.get("tie_word_embeddings") is False:
            kind.tie_word_embeddings = False
        model = architecture(kind).eval()
        from safetensors.torch import load_file
        tensors = {key: value.float() for key, value in load_file(HERE / name / "model.safetensors").items()}
        if name == "flan_t5":
            model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        assert not unexpected, unexpected
        model.tie_weights()
        generation = {key: config[key] for key in config if key.startswith("forced") or key in (
            "pad_token_id", "eos_token_id", "decoder_start_token_id")} | dict(
            num_beams=3, max_length=22, min_length=7, no_repeat_ngram_size=2)
        write(HERE / name / "generation_config.json", generation)
        if name == "bart":
            config["task_specific_params"] = {"summarization": SUMMARY}
            (HERE / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        size = min(64, len(tokenizer))
        if name == "m2m_100":
            # The pieces that fill the vocabulary up are unknown to its SentencePiece model.
            size = sum(not token.startswith("▁w") for token in tokenizer.encoder)
        cases = []
        for text in TEXTS:
            cases.append(dict(text=text, plain=tokenizer(text, add_special_tokens=False)["input_ids"]))
        back = []
        for seed in range(6):
            tokens = [(seed * 17 + i * i * 5 + i * 3) % size for i in range(10)]
            back.append(dict(tokens=tokens, text=told(name, tokenizer, tokens)))
        answers = [dict(text=text, answer=answer(name, tokenizer, model, text)) for text in ANSWERS]
        print(name, len(tokenizer), [a["answer"] for a in answers])
        reference[name] = dict(cases=cases, back=back, answers=answers)
    write(HERE / "texts.json", reference)


main()
