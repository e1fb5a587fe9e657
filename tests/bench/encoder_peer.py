"""onnxruntime on the processor: the measurement of `encoder-bench embed` with the same weights and texts.

`make` writes a BERT checkpoint as an ONNX graph of onnxruntime's fused operators, which is what its optimizer for
transformers makes of an exported model: EmbedLayerNormalization, Attention with its three projections in one,
SkipLayerNormalization with the bias of the product before it, and BiasGelu. `embed` pads a batch to its longest text,
as every pipeline around onnxruntime does, and prints the same members as `encoder-bench embed`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np


def make(arguments):
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    folder = Path(arguments.model)
    config = json.loads((folder / "config.json").read_text())
    weights = {name: value.astype(np.float32) for name, value in load_file(folder / "model.safetensors").items()}
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]
    nodes, constants = [], {}

    def constant(name, value=None):
        value = weights[name] if value is None else value
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(kind, inputs, output, **attributes):
        domain = "" if kind == "MatMul" else "com.microsoft"
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def norm(name):
        return [constant(f"{name}.weight"), constant(f"{name}.bias")]

    def product(x, name, output):
        return node("MatMul", [x, constant(f"{name}.weight", weights[f"{name}.weight"].T)], output)

    tables = [constant(f"embeddings.{part}_embeddings.weight") for part in ["word", "position", "token_type"]]
    nodes.append(helper.make_node(
        "EmbedLayerNormalization", ["ids", "types", *tables, *norm("embeddings.LayerNorm"), "mask"],
        ["states", "lengths"], domain="com.microsoft", epsilon=epsilon))
    x = "states"
    for index in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{index}"
        parts = [f"{at}.attention.self.{part}" for part in ["query", "key", "value"]]
        qkv = constant(f"{at}.qkv", np.concatenate([weights[f"{part}.weight"].T for part in parts], 1))
        bias = constant(f"{at}.qkv.bias", np.concatenate([weights[f"{part}.bias"] for part in parts]))
        attended = node("Attention", [x, qkv, bias, "lengths"], f"{at}.attended", num_heads=heads)
        out = f"{at}.attention.output"
        projected = product(attended, f"{out}.dense", f"{at}.projected")
        inputs = [projected, x, *norm(f"{out}.LayerNorm"), constant(f"{out}.dense.bias")]
        x = node("SkipLayerNormalization", inputs, f"{at}.middle", epsilon=epsilon)
        up = product(x, f"{at}.intermediate.dense", f"{at}.up")
        wide = node("BiasGelu", [up, constant(f"{at}.intermediate.dense.bias")], f"{at}.wide")
        down = product(wide, f"{at}.output.dense", f"{at}.down")
        inputs = [down, x, *norm(f"{at}.output.LayerNorm"), constant(f"{at}.output.dense.bias")]
        x = node("SkipLayerNormalization", inputs, f"{at}.out", epsilon=epsilon)
    shape = ["batch", "length"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name in ["ids", "types", "mask"]]
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT, [*shape, config["hidden_size"]])
    graph = helper.make_graph(nodes, "bert", inputs, [output], list(constants.values()))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), arguments.output)


def embed(arguments):
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(arguments.model) / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(512)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(arguments.graph, options, providers=["CPUExecutionProvider"])

    def call(texts):
        started = time.perf_counter()
        encodings = tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int32)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int32)
        states = session.run(None, {"ids": ids, "types": np.zeros_like(ids), "mask": mask})[0]
        pooled = np.matmul(mask[:, None, :].astype(np.float32), states)[:, 0]
        vectors = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return time.perf_counter() - started, vectors

    measured, first = {}, {}
    for name, texts in json.loads(Path(arguments.batches).read_text()).items():
        _, vectors = call(texts)
        first[name] = vectors[:, :4].tolist()
        times, until = [], time.perf_counter() + arguments.seconds
        while len(times) < 3 or time.perf_counter() < until:
            times.append(call(texts)[0])
        measured[name] = len(texts) / sorted(times)[len(times) // 2]
    print(json.dumps({**measured, "vectors": first}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("make")
    task.add_argument("model")
    task.add_argument("output")
    task = tasks.add_parser("embed")
    task.add_argument("model")
    task.add_argument("graph")
    task.add_argument("batches")
    task.add_argument("--threads", type=int, default=1)
    task.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    {"make": make, "embed": embed}[arguments.task](arguments)


if __name__ == "__main__":
    main()
