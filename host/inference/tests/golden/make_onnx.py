"""Makes a tiny BERT in ONNX, in float32 and with dynamically quantized int8 weights, and the vectors it gives.

    python make_onnx.py        with torch 2.15, transformers 5.24, onnx 1.23 and onnxruntime 1.32

The exporter that names nodes by modules cannot trace transformers' own BERT any more, so the class Bert below, with the
same modules, is exported, and compared with transformers' first. The vectors of `onnx/reference.json` are onnxruntime's states, their mean over the text's tokens, at length 1. The
tokenizer is that of encoders/bert_rerank.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import transformers as tf
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

HERE = Path(__file__).parent / "onnx"
TOKENIZER = Path(__file__).parent / "encoders/bert_rerank/tokenizer.json"
TEXTS = ["The cat sits on the mat.", "Paris is the capital of France, and Berlin of Germany!", "x"]


WANTED = {
    "architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id",
}


def modules(**children):
    module = torch.nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (torch.nn.Linear(width, width) for _ in range(3))

    def forward(self, x, mask):
        split = lambda y: y.view(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)
        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + mask
        return (torch.softmax(scores, -1) @ value).transpose(1, 2).reshape(x.shape)


class Output(torch.nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.dense, self.LayerNorm = torch.nn.Linear(inputs, width), torch.nn.LayerNorm(width, eps=1e-12)

    def forward(self, y, x):
        return self.LayerNorm(self.dense(y) + x)


class Layer(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention = modules(self=Attention(c.hidden_size, c.num_attention_heads), output=Output(c.hidden_size, c.hidden_size))
        self.intermediate = modules(dense=torch.nn.Linear(c.hidden_size, c.intermediate_size))
        self.output = Output(c.intermediate_size, c.hidden_size)

    def forward(self, x, mask):
        x = self.attention.output(getattr(self.attention, "self")(x, mask), x)
        return self.output(torch.nn.functional.gelu(self.intermediate.dense(x)), x)


class Bert(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        table = lambda rows: torch.nn.Embedding(rows, c.hidden_size)
        self.embeddings = modules(
            word_embeddings=table(c.vocab_size), position_embeddings=table(c.max_position_embeddings),
            token_type_embeddings=table(c.type_vocab_size), LayerNorm=torch.nn.LayerNorm(c.hidden_size, eps=1e-12))
        self.encoder = modules(layer=torch.nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers)))

    def forward(self, input_ids, attention_mask, token_type_ids):
        e = self.embeddings
        positions = torch.cumsum(torch.ones_like(input_ids), 1) - 1
        x = e.word_embeddings(input_ids) + e.position_embeddings(positions) + e.token_type_embeddings(token_type_ids)
        x = e.LayerNorm(x)
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for layer in self.encoder.layer:
            x = layer(x, mask)
        return x


def main():
    warnings.simplefilter("ignore")
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_padding()
    config = tf.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=40, max_position_embeddings=64, architectures=["BertModel"])
    reference = tf.BertModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            scale = 0.3 if tensor.ndim > 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + float("LayerNorm.weight" in name))
    model = Bert(config).eval()
    weights = {name: tensor for name, tensor in reference.state_dict().items() if "position_ids" not in name}
    model.load_state_dict(weights)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.tensor([tokenizer.encode(TEXTS[1]).ids])
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.no_grad():
        theirs = reference(**dict(zip(names, example))).last_hidden_state
        assert torch.allclose(model(*example), theirs, atol=1e-5)
    for form in ["float", "int8"]:
        (HERE / form).mkdir(parents=True, exist_ok=True)
        shutil.copy(TOKENIZER, HERE / form / "tokenizer.json")
        kept = {key: value for key, value in config.to_dict().items() if key in WANTED}
        (HERE / form / "config.json").write_text(json.dumps(kept, indent=1) + "\n")
    path = HERE / "float/model.onnx"
    torch.onnx.export(
        model, example, str(path), dynamo=False, opset_version=17, input_names=names, output_names=["states"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "states"]})
    quantize_dynamic(str(path), str(HERE / "int8/model.onnx"), weight_type=QuantType.QInt8)
    answers = {"texts": TEXTS}
    for form in ["float", "int8"]:
        session = ort.InferenceSession(str(HERE / form / "model.onnx"), providers=["CPUExecutionProvider"])
        answers[form] = [vector(session, tokenizer.encode(text).ids) for text in TEXTS]
    (HERE / "reference.json").write_text(json.dumps(answers) + "\n")


def vector(session, ids):
    ids = np.array([ids], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    mean = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0][0].mean(axis=0)
    return [round(float(value), 7) for value in mean / np.linalg.norm(mean)]


main()
