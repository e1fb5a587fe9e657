"""Makes tokenizers.json: small vocabularies, hard texts, and the tokens that reference implementations give.

    python make_tokenizers.py

with `tokenizers`, `sentencepiece`, `protobuf`, `gguf`, `numpy` and `xllamacpp` (llama.cpp) installed. The vocabularies are trained on
the texts themselves and without any splitting, so that merges reach over every place where a rule has to split: a split
that is missing shows as well as one too many.

Byte-level rules are taken from llama.cpp, by a llama of random weights with the vocabulary and the rule's name. Where the
pattern published with a model's tokenizer gives other tokens than llama.cpp's rendering of it, the published one counts
(`published` below; llama.cpp has no classes of upper and lower case, no normalization, and white space in no other class): those texts are listed when
this runs. SentencePiece vocabularies are taken from both llama.cpp and sentencepiece, which must agree; pipelines of
tokenizer.json from `tokenizers`.
"""

import io
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).parent

TEXTS = [
    "Hello world, hello World! HELLO WORLD",
    "I'm sure they'll say we've done what you'd do; it's John's, isn't it? DON'T, WE'LL, I'VE 'tis 'S 'ſ",
    "you’re don’t l'été",
    "1 12 123 1234 12345 1234567 3.14159 1,000,000.00 0x1F 1e-9 v2.0.1 1234abc abc1234 12_345 x1234",
    "١٢٣٤٥ ४५६७८ ½ ² Ⅷ ①②③ 12½3 ٣.١٤",
    "日本語のテキストと中文文本，还有标点。「引用」カタカナ ひらがな ｶﾀｶﾅ 한국어 텍스트입니다 漢字kanji123",
    "中文 English混合 文本2024年",
    "ภาษาไทย ภาษา ລາວ ខ្មែរ မြန်မာ",
    "🙂👩‍👩‍👧‍👦👍🏽🇳🇴🏴‍☠️ emoji🎉🎉 ❤️ ☺",
    "naïve cafe\u0301 é e\u0301 A\u030a Å ñ n\u0303 ạ\u0302 q\u0323\u0307 각 \u1100\u1161\u11a8",
    "हिन्दी देवनागरी क्षत्रिय বাংলা தமிழ் తెలుగు",
    "שלום עולם مرحبا بالعالم، كيف حالك؟ \u200fRTL\u200e mixed עברית123",
    "Привет, мир! ПРИВЕТ МИР ПриВет Ελληνικά ΕΛΛΗΝΙΚΆ ὮΜΕΓΑ Ծառ ქართული ǅungla Straße ẞ İstanbul",
    "iPhone McDonald camelCaseWord XMLHttpRequest snake_case_word kebab-case-word SCREAMING_CASE ÉCOLEÉcole éÉ",
    "\ttab\t\ttabs \t mixed\t ",
    " leading",
    "  two leading",
    "   three leading   between   words   ",
    "trailing ",
    "trailing   ",
    "\n",
    "\n\n\n",
    " \n  \n   \n",
    "line one\nline two\r\nline three\rline four\n\n\nline eight\n \n  indented\n\t\ttabbed\n",
    "a\n\n  b \n c  \n\n\n   d\r\n\r\n  e",
    "def f(x: int) -> str:\n    if x >= 10 and x != 12:\n        return f\"{x:>04d}\\n\"\n    # comment\n    return 'a' * (x**2 - 1)\n",
    "for(int i=0;i<n;++i){a[i]+=b[i]&0xFF;}//end\n#include <stdio.h>\n",
    "SELECT * FROM t WHERE a='b''c' AND d<>\"e\" -- x\n;",
    "https://example.com/a/b?c=d&e=f#g user@mail.example $HOME /usr/local/bin C:\\Windows\\System32 ../x/./y",
    "<html><body class=\"a b\">text &amp; more</body></html>",
    "$100 €50 £3 ¥700 +1-2=3 a<b>c^d~e|f`g`h ``` code ```",
    "!!! ??? ... --- === *** ### @@@ %%% &&& (((nested))) [[x]] {{y}} /// \\\\\\ \"\"\" '''",
    "!a \"b #c $d %e &f (g *h +i ,j -k .l /m :n ;o <p =q >r ?s @t [u ]v ^w _x `y {z |a }b ~c",
    "…“quotes”‘single’—dash–en·dot«guillemets»‹›¿¡§¶†‡•",
    "，。、！？：；（）【】《》～＝＋",
    "no\u00a0break\u00a0 space\u2003em\u3000ideographic\u200bzero\u200cwidth\u200djoin\ufeffbom \u00a0\u00a0 \u2009",
    "\u0085next\u2028line\u2029paragraph\u000bvt\u000cff\u001cfs\u0000nul\u0007bel\u007fdel\u009bcsi",
    "\ufffd\ufffd \\xff \\u0041 <0x41> <0xZZ> %20 &#x41; \uffff \U0010ffff \ue000",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "text<|im_end|><|im_end|> <|im_end|> text <|im_en|> <|im_start|",
    "<added> <added><added>x<added>y < added>",
    "[INST] What? [/INST] answer</s><s>[INST]",
    "▁lower▁one ▁ eighth",
    "Ġstand Ċin â ĠĠ",
    "a" * 100 + "b" + " " * 70 + "c" + "\n" * 40 + "d" + "1" * 50 + "e" + "!" * 60 + "é" * 30 + "日" * 30,
    " " * 1030 + "x",
    "x" + " " * 15,
    "abababababab xyxyxyxyxy 0101010101 -=-=-=-=",
    "wholeword  wholeword unmergeable Whole",
    "IMGIMGABCDZ <sentinel:12> IMGIMGAZ    four  two",
    "The year 2024, the number 1000000; 3rd of 100th. ٢٠٢٤",
    "word's word'S it'd IT'D we'll WE'LL they'Ve 'llama 'reX n'th",
    "a-b a--b a - b a -b a- b . a .b ,c , d",
    "ªº ʰʱ ǅ ǈ ℵ ℝ ℤ K Å ϒ ﬁ ﬃ ＡＢｃ １２３",
    "𝒜𝓑𝔠 𝟏𝟐𝟑 𐐀𐐨 𠀀𠀁 𞤀 🀄",
    "Nguyễn Văn Anh Tiếng Việt điện thoại",
    "Çok güzel Türkiye'nin başkenti Ankara'dır İIıi",
    "Œuvre ĳ ŉ ǰ ΐ ᾳ",
    "",
    "x",
]

SPECIAL = ["<|im_start|>", "<|im_end|>"]
ADDED = ["<added>"]
WHOLE = ["Ġwholeword", "wholeword", "Ġunmergeable"]


def stand_ins():
    out, following = {}, 256
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte
        out[byte] = chr(byte if printable else following)
        following += not printable
    return out


BYTES = stand_ins()


def pieces(text):
    """What of a text is trained on: not the control and added tokens, nor the words that only a whole word's token makes."""
    import re

    return [piece for piece in re.split(r"<\|im_\w+\|>|<added>|</?s>|wholeword|unmergeable|é{3,}", text) if piece]


def train(units, count):
    """Merges of the most frequent pairs; ties by the pair itself. `units` are lists of symbols."""
    merges, made = [], set()
    for _ in range(count):
        pairs = {}
        for unit in units:
            for pair in zip(unit, unit[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        pairs = {pair: n for pair, n in pairs.items() if len(pair[0] + pair[1]) <= 24}
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2 and len(merges) > count * 2 // 3:
            break
        merges.append(list(best))
        for unit in units:
            at = 0
            while at < len(unit) - 1:
                if (unit[at], unit[at + 1]) == best:
                    unit[at : at + 2] = [best[0] + best[1]]
                at += 1
    return merges


def bpe_tokens(alphabet, merges, more):
    tokens = list(alphabet)
    seen = set(tokens)
    for token in ["".join(merge) for merge in merges] + more:
        if token not in seen:
            seen.add(token)
            tokens.append(token)
    return tokens


def write_gguf(path, fields):
    """A llama of one layer with random weights around the tokenizer's `fields`."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    fields(writer)
    random = np.random.default_rng(1)
    tensor = lambda name, *shape: writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    tensor("token_embd.weight", writer.vocabulary, 32)
    tensor("output_norm.weight", 32)
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        tensor(f"blk.0.{name}.weight", 32, 32)
    for name in ["attn_norm", "ffn_norm"]:
        tensor(f"blk.0.{name}.weight", 32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(fields, texts):
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.gguf")
        write_gguf(path, fields)
        worker = [sys.executable, __file__, "--tokenize", path]
        done = subprocess.run(worker, input=json.dumps(texts).encode(), capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return json.loads(done.stdout.decode().rsplit("\n@", 1)[1])


def worker(path):
    import os

    import xllamacpp

    texts = json.load(sys.stdin)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 64
    parameters.warmup = False
    parameters.n_gpu_layers = 0
    server = xllamacpp.Server(parameters)
    found = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        found.append(json.load(urllib.request.urlopen(request))["tokens"])
    sys.stdout.write("\n@" + json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


def bpe_fields(name, tokens, merges, types, model="gpt2"):
    def fields(writer):
        writer.vocabulary = len(tokens)
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(name)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(len(tokens) - len(SPECIAL))
        writer.add_eos_token_id(len(tokens) - len(SPECIAL) + 1)
        for kind in ["unk", "sep", "pad", "mask"]:
            getattr(writer, f"add_{kind}_token_id")(len(tokens) - len(SPECIAL))

    return fields


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD, TAIL = r"[^\r\n\p{L}\p{N}]?", r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + "|" + LEAD + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = CONTRACTIONS + "|" + LEAD + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN35 = CONTRACTIONS + "|" + LEAD + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL
TEKKEN = f"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
GPT4O = f"{LEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?" + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
YOUTU = GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")
HAN = lambda kind: kind[:-1] + r"&&[^\p{Han}]]"
KIMI = (
    r"\p{Han}+|"
    + f"{LEAD}{HAN(UPPER)}*{HAN(LOWER)}+{CONTRACTIONS}?|{LEAD}{HAN(UPPER)}+{HAN(LOWER)}*{CONTRACTIONS}?"
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    + TAIL
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-\u309f\u30a0-\u30ff]+"

def constant(name):
    """A pattern that is nothing but a long list of characters, from the host's source."""
    import re

    source = (HERE / "../../src/text/tokenizer/rules.rs").read_text()
    text = source[source.index(f"const {name}: &str") :]
    text = "".join(re.findall(r'r?"((?:[^"\\]|\\.)*)"', text[: text.index(";\n")]))
    return re.sub(r"\\u\{(\w+)\}", lambda found: chr(int(found[1], 16)), text).replace("\\\\s", r"\s")


# name: patterns, NFC, ignore_merges
published = {
    "deepseek-llm": (
        [r"[\r\n]", constant("DEEPSEEK_LETTERS"), constant("DEEPSEEK_SIGNS"), r"\s+$", constant("DEEPSEEK_HAN"), r"\p{N}+"],
        False,
        False,
    ),
    "deepseek-coder": (
        [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", constant("DEEPSEEK_HAN"), r"\p{N}"],
        False,
        False,
    ),
    "llama-bpe": ([LLAMA3], False, True),
    "dbrx": ([LLAMA3], False, False),
    "qwen2": ([QWEN2], True, False),
    "stablelm2": ([QWEN2], False, False),
    "qwen35": ([QWEN35], True, False),
    "tekken": ([TEKKEN], False, True),
    "gpt-4o": ([GPT4O], False, False),
    "granite-embed-multi-97m": ([GPT4O], False, True),
    "youtu": ([YOUTU_SCRIPTS, YOUTU], False, True),
    "kimi-k2": ([KIMI], False, False),
    "tiny_aya": ([r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O], False, False),
    "minicpm5": ([r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")], False, True),
    "jais-2": (
        [LLAMA3.replace(r"\s+(?!\S)|\s+", "|".join(rf"\s{{{1 << n}}}(?!\S)" for n in range(9, 1, -1)) + r"|\s{1,2}(?!\S)|\s{1}")],
        False,
        False,
    ),
    "command-r": ([r"\p{N}", GPT2], True, False),
    "olmo": ([GPT2], True, False),
    "bailingmoe": (
        [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
        False,
        False,
    ),
    "seed-coder": (
        [CONTRACTIONS + "|" + LEAD + r"\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + TAIL],
        False,
        False,
    ),
    "exaone-moe": (
        [CONTRACTIONS + "|" + LEAD + r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
        False,
        False,
    ),
    "laguna": ([r"[^\n]+|[\n]+", QWEN2], False, False),
}


def pipeline(patterns, nfc):
    split = lambda pattern: {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(pattern) for pattern in patterns] + [bytes_]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def tokenizer_json(parts, tokens, merges, added, flags):
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    model = {"type": "BPE", **plain, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **flags}
    model |= {"vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": None, **parts, "model": model}


def added_tokens(tokens, special, user):
    entry = lambda text, special, **more: {
        "id": tokens.index(text), "content": text, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": special, **more,
    }
    return [entry(text, True) for text in special] + [entry(text, False) for text in user]


def hugging_face(document, texts):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def names():
    """The names that the host knows, from its source."""
    source = (HERE / "../../src/text/tokenizer/rules.rs").read_text()
    table = source[source.index("const RULES") : source.index("/// The rule of that name")]
    import re

    groups = re.findall(r'\(\s*&\[((?:\s*"[^"]+",?)+)\s*\],\s*&\[', table)
    return [re.findall(r'"([^"]+)"', group) for group in groups]


def byte_level():
    units = [[BYTES[byte] for byte in piece.encode()] for text in TEXTS for piece in pieces(text)]
    merges = train(units, 1400)
    tokens = bpe_tokens(BYTES.values(), merges, WHOLE) + ADDED + SPECIAL
    types = [1] * (len(tokens) - 3) + [4, 3, 3]
    rules = []
    for group in names():
        if group[0] in ("gemma4", "sarvam-moe"):
            continue
        found = {name: llama_cpp(bpe_fields(name, tokens, merges, types), TEXTS) for name in group}
        ids = found[group[0]]
        for name in group:
            other = [at for at, (a, b) in enumerate(zip(ids, found[name])) if a != b]
            if other:
                print(f"{name} is not {group[0]}: {[(TEXTS[at], found[name][at], ids[at]) for at in other[:2]]}")
        for name in group:
            if name in published:
                patterns, nfc, ignore = published[name]
                document = tokenizer_json(pipeline(patterns, nfc), tokens, merges, added_tokens(tokens, SPECIAL, ADDED), {"ignore_merges": ignore})
                theirs = hugging_face(document, TEXTS)
                other = [at for at, (a, b) in enumerate(zip(ids, theirs)) if a != b]
                print(f"{name}: llama.cpp differs from the published pattern in {len(other)} of {len(TEXTS)}: {other}")
                ids = theirs
        print(group, flush=True)
        rules.append({"names": group, "full": ids})
    rules = shortened(rules)
    return {"merges": [" ".join(merge) for merge in merges], "whole": WHOLE, "added": ADDED, "special": SPECIAL, "rules": rules}


def characters():
    """A vocabulary of characters with bytes for the rest, as Gemma's and Llama 2's files for `tokenizers` have."""
    common = sorted({c for text in TEXTS for c in text.replace(" ", "▁") if TEXTS_COUNT[c] > 1 or c == "▁"})
    spelled = [piece.replace(" ", "▁") for text in TEXTS for piece in pieces(text)]
    units = [[c if c in common else "\0" + c for c in piece] for piece in spelled]
    merges = [merge for merge in train(units, 900) if not any("\0" in part for part in merge)]
    known = set(common)
    usable = []
    for first, second in merges:
        if first in known and second in known:
            known.add(first + second)
            usable.append([first, second])
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = bpe_tokens(tokens + common, usable, []) + ADDED
    flags = {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    metaspace = lambda scheme, split: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    shapes = {
        "llama2": {
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": back + [strip]},
        },
        "gemma": {
            "normalizer": space,
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            "decoder": {"type": "Sequence", "decoders": back},
        },
        "mistral": {
            "normalizer": None,
            "pre_tokenizer": metaspace("first", False),
            "decoder": {"type": "Sequence", "decoders": back + [strip]},
        },
        "metaspace": {"normalizer": None, "pre_tokenizer": metaspace("always", True), "decoder": metaspace("always", True)},
    }
    added = added_tokens(tokens, tokens[:3], ADDED)
    added[2]["rstrip"] = True
    found = []
    for name, parts in shapes.items():
        ids = hugging_face(tokenizer_json(parts, tokens, usable, added, flags), TEXTS)
        found.append({"name": name, **parts, "ids": ids})
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 260) + [4]
    lines = [text for text in TEXTS]
    rules = []
    for name, model in [("gemma4", "gemma4"), ("granite-embed-multi-311m", "gpt2"), ("sarvam-moe", "gpt2")]:
        def fields(writer, name=name, model=model):
            writer.vocabulary = len(tokens)
            writer.add_tokenizer_model(model)
            writer.add_tokenizer_pre(name)
            writer.add_token_list(tokens)
            writer.add_token_types(types)
            writer.add_token_merges([" ".join(merge) for merge in usable if "\n" not in "".join(merge)])
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            writer.add_unk_token_id(0)
        rules.append({"name": name, "model": model, "ids": llama_cpp(fields, lines)})
    return {"tokens": tokens, "merges": usable, "shapes": found, "rules": rules}


TEXTS_COUNT = {}
for _text in TEXTS:
    for _c in _text.replace(" ", "▁"):
        TEXTS_COUNT[_c] = TEXTS_COUNT.get(_c, 0) + 1


def sentence_piece():
    import sentencepiece

    def model(**more):
        out = io.BytesIO()
        lines = [piece for text in TEXTS for piece in pieces(text.replace("\0", ""))]
        corpus = [line for piece in lines for line in piece.split("\n") if line.strip()] * 3
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=out, model_type="bpe", vocab_size=1000, character_coverage=0.98,
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
            split_by_unicode_script=False, split_by_whitespace=False, allow_whitespace_only_pieces=True,
            user_defined_symbols=ADDED, minloglevel=2, **more,
        )
        return out.getvalue()

    from sentencepiece import sentencepiece_model_pb2 as proto

    trained = proto.ModelProto.FromString(model())
    entries = [(piece.piece, piece.score, piece.type) for piece in trained.pieces]
    cases = []
    for prefix, collapse in [(True, False), (False, False), (True, True)]:
        trained.normalizer_spec.add_dummy_prefix = prefix
        trained.normalizer_spec.remove_extra_whitespaces = collapse
        processor = sentencepiece.SentencePieceProcessor(model_proto=trained.SerializeToString())

        def fields(writer, prefix=prefix):
            writer.vocabulary = len(entries)
            writer.add_tokenizer_model("llama")
            writer.add_tokenizer_pre("default")
            writer.add_token_list([piece for piece, _, _ in entries])
            writer.add_token_scores([score for _, score, _ in entries])
            writer.add_token_types([kind for _, _, kind in entries])
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            writer.add_unk_token_id(0)
            writer.add_add_space_prefix(prefix)

        theirs = [processor.encode(text) for text in TEXTS]
        # sentencepiece finds no control tokens in texts, and puts no space behind an added one, as llama.cpp does.
        special = ADDED + ["<s>", "</s>"]
        ids = [None if any(mark in text for mark in special) else ids for text, ids in zip(TEXTS, theirs)]
        if not collapse:
            # llama.cpp puts the space in front of every section, and knows no texts of control tokens as plain ones.
            ids = llama_cpp(fields, TEXTS)
            other = [at for at, (a, b) in enumerate(zip(ids, theirs)) if a != b]
            print(f"spm {prefix}: llama.cpp differs from sentencepiece in {other}")
        cases.append({"space_prefix": prefix, "collapse": collapse, "ids": ids})
    return {"pieces": [list(entry) for entry in entries], "cases": cases}


def shortened(rules):
    """Null where a rule gives what an earlier one gave, whose number stands in `like`."""
    for at, rule in enumerate(rules):
        same = lambda other: sum(a == b for a, b in zip(rule["full"], other["full"]))
        rule["like"] = max(range(at), key=lambda other: same(rules[other]), default=None)
        like = rules[rule["like"]]["full"] if at else [None] * len(TEXTS)
        rule["ids"] = [None if ids == other else ids for ids, other in zip(rule["full"], like)]
    return [{key: rule[key] for key in ("names", "like", "ids")} for rule in rules]


def main():
    out = {"texts": TEXTS, "bytes": byte_level(), "characters": characters(), "sentence_piece": sentence_piece()}
    path = HERE / "tokenizers.json"
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tokenize"]:
        worker(sys.argv[2])
    else:
        main()
