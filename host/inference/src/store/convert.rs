//! An ONNX encoder becomes float32 safetensors under the names it was published with.
//!
//! PyTorch's exporter keeps the names of biases, norms and tables, and renames the weights of products, which it
//! transposes: the published layout of a linear weight is `[out, in]`, a `MatMul` has `[in, out]`. The bias that is added
//! then tells the module it came from; where there is none, the node's own name does, as in
//! `/encoder/layer.0/attention/self/query/MatMul`. onnxruntime's dynamic quantization
//! replaces a weight `W` by `W_quantized`, `W_scale` and `W_zero_point` with `W = (quantized - zero_point) * scale`, and
//! its product by a `MatMulInteger` node; static quantization puts a `DequantizeLinear` node before the product, and some
//! operators take scale and zero point themselves. Whether what comes out is a model is for its loader to say.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use safetensors::Dtype;

use super::StoreError;
use super::deferred::{self, Deferred};
use super::onnx::{self, Graph, Initializer, Node, OnnxError};
use crate::text::Mapped;

/// How many nodes a constant may be passed through.
const LONGEST_CHAIN: usize = 8;

/// Makes `model.safetensors` in `to` of the encoder at `source`.
pub(super) fn onnx_encoder(source: &Path, to: &Path) -> Result<(), StoreError> {
    let bytes = Mapped::open(source).map_err(StoreError::io("cannot read", source))?;
    let refuse = |why: String| StoreError::NotAModel { path: source.to_owned(), why };
    let graph = onnx::read(&bytes).map_err(|error| refuse(error.to_string()))?;
    let tensors = tensors(&graph).map_err(|error| refuse(error.to_string()))?;
    let tensors: Option<BTreeMap<_, _>> =
        tensors.into_iter().map(|(name, weight)| Some((name, weight.deferred()?))).collect();
    let tensors = tensors.ok_or_else(|| refuse("a tensor is too large".to_owned()))?;
    if tensors.is_empty() {
        return Err(refuse("it has no weights with the names of an encoder's".to_owned()));
    }
    let target = to.join("model.safetensors");
    deferred::write(&target, tensors)
        .map_err(|error| refuse(format!("{} cannot be written: {error}", target.display())))
}

/// A tensor of the model, and how to make it.
struct Weight<'g> {
    values: &'g Initializer<'g>,
    /// Subtracted, then multiplied with; none where the values are floats.
    quantized: Option<Quantized>,
    /// Whether its sides change places.
    transposed: bool,
}

/// Scales and zero points: one each, or one for each column, or for each row.
struct Quantized {
    scale: Vec<f32>,
    zero: Vec<f32>,
    by_row: bool,
}

impl<'g> Weight<'g> {
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.values.dims.clone();
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    fn values(&self) -> Vec<f32> {
        let mut values = self.values.to_f32();
        let columns = self.values.dims.last().copied().unwrap_or(1).max(1);
        if let Some(Quantized { scale, zero, by_row }) = &self.quantized {
            for (row, line) in values.chunks_mut(columns).enumerate() {
                for (column, value) in line.iter_mut().enumerate() {
                    let at = if *by_row { row } else { column };
                    *value = (*value - zero[at.min(zero.len() - 1)]) * scale[at.min(scale.len() - 1)];
                }
            }
        }
        if !self.transposed {
            return values;
        }
        let rows = values.len() / columns;
        let column = |column: usize| (0..rows).map(move |row| row * columns + column);
        (0..columns).flat_map(column).map(|at| values[at]).collect()
    }

    fn deferred(self) -> Option<Deferred<'g>> {
        let shape = self.shape();
        Deferred::new(Dtype::F32, &shape, move || {
            Cow::Owned(self.values().into_iter().flat_map(f32::to_le_bytes).collect())
        })
    }
}

/// What an encoder's weights are named.
fn is_published(name: &str) -> bool {
    name.ends_with(".weight") || name.ends_with(".bias")
}

fn tensors<'g>(graph: &'g Graph<'g>) -> Result<BTreeMap<String, Weight<'g>>, OnnxError> {
    let mut tensors = BTreeMap::new();
    let mut multiplied = HashSet::new();
    for node in &graph.nodes {
        let Some((base, mut weight)) = factor(graph, node)? else { continue };
        if weight.values.dims.len() != 2 {
            // A product with a vector or a stack of matrices is no module's.
            continue;
        }
        weight.transposed = !node.transposed;
        let name = match biased(graph, node) {
            _ if base.ends_with(".weight") => base.to_owned(),
            Some(module) => format!("{module}.weight"),
            None => module(node.name)? + ".weight",
        };
        multiplied.insert(base);
        if tensors.insert(name.clone(), weight).is_some() {
            return Err(OnnxError::tensor(&name, "two weights have this name"));
        }
    }
    for (&name, values) in &graph.initializers {
        let base = name.strip_suffix("_quantized").unwrap_or(name);
        if !is_published(base) || multiplied.contains(base) || values.dims.is_empty() {
            continue;
        }
        let quantized = match values.is_bytes() {
            true if base != name => Some(named_scales(graph, base, values)?),
            false if values.is_float() && base == name => None,
            _ => continue,
        };
        tensors.insert(base.to_owned(), Weight { values, quantized, transposed: false });
    }
    Ok(tensors)
}

/// The constant right factor of a product, with the name that it had before it was quantized; none where the node is no
/// product, or multiplies two things that it computes.
fn factor<'g>(graph: &'g Graph<'g>, node: &Node<'g>) -> Result<Option<(&'g str, Weight<'g>)>, OnnxError> {
    let input = |at: usize| node.inputs.get(at).copied().filter(|name| !name.is_empty());
    if !(node.operator.contains("MatMul") || node.operator == "Gemm") {
        return Ok(None);
    }
    let Some(mut name) = input(1) else { return Ok(None) };
    let mut scales = match node.operator {
        "MatMulIntegerToFloat" => Some((input(3), input(5), 1)),
        "DynamicQuantizeMatMul" => Some((input(2), input(3), 1)),
        _ => None,
    };
    for _ in 0..LONGEST_CHAIN {
        let Some(maker) = graph.maker(name) else { break };
        let from = |at: usize| maker.inputs.get(at).copied().filter(|name| !name.is_empty());
        match maker.operator {
            "Identity" => {}
            "DequantizeLinear" => scales = Some((from(1), from(2), maker.axis)),
            _ => return Ok(None),
        }
        let Some(next) = from(0) else { return Ok(None) };
        name = next;
    }
    let Some((&name, values)) = graph.initializers.get_key_value(name) else { return Ok(None) };
    let base = name.strip_suffix("_quantized").unwrap_or(name);
    let quantized = match scales {
        None if values.is_float() => None,
        None if values.is_bytes() => Some(named_scales(graph, base, values)?),
        Some((Some(scale), zero, axis)) if values.is_bytes() => {
            let scale = find(graph, scale)?;
            let zero = zero.map(|zero| find(graph, zero)).transpose()?;
            Some(fitting(base, values, scale, zero, axis == 0)?)
        }
        _ => return Err(OnnxError::tensor(name, "it is neither floats nor bytes with a scale")),
    };
    Ok(Some((base, Weight { values, quantized, transposed: false })))
}

/// The module whose bias is added to a product, directly or after the product of integers was scaled.
fn biased<'g>(graph: &'g Graph<'g>, node: &Node<'g>) -> Option<&'g str> {
    let bias = |node: &Node<'g>| {
        let mut names = node.inputs.iter().filter(|name| graph.initializers.contains_key(**name));
        names.find_map(|name| name.strip_suffix(".bias"))
    };
    if node.operator == "Gemm" {
        return bias(node);
    }
    let mut name = node.output;
    for _ in 0..LONGEST_CHAIN {
        if let Some(module) = graph.users(name).filter(|user| user.operator == "Add").find_map(bias) {
            return Some(module);
        }
        name = graph.users(name).find(|user| matches!(user.operator, "Cast" | "Mul"))?.output;
    }
    None
}

/// The module a node was exported from: its name is the path to it, and the operator's own.
fn module(node: &str) -> Result<String, OnnxError> {
    let path = node.trim_start_matches('/').rsplit_once('/');
    let path = path.filter(|(path, last)| !path.is_empty() && (last.contains("MatMul") || last.contains("Gemm")));
    path.map(|(path, _)| path.replace('/', ".")).ok_or_else(|| OnnxError::Module(node.chars().take(80).collect()))
}

fn find<'g>(graph: &'g Graph<'_>, name: &str) -> Result<&'g Initializer<'g>, OnnxError> {
    graph.initializers.get(name).ok_or_else(|| OnnxError::tensor(name, "it is missing"))
}

/// Scale and zero point that have the weight's name.
fn named_scales(graph: &Graph<'_>, base: &str, values: &Initializer<'_>) -> Result<Quantized, OnnxError> {
    let scale = find(graph, &format!("{base}_scale"))?;
    let zero = graph.initializers.get(format!("{base}_zero_point").as_str());
    fitting(base, values, scale, zero, false)
}

fn fitting(
    base: &str,
    values: &Initializer<'_>,
    scale: &Initializer<'_>,
    zero: Option<&Initializer<'_>>,
    by_row: bool,
) -> Result<Quantized, OnnxError> {
    let sides = &values.dims;
    let count = if by_row { sides.first() } else { sides.last() }.copied().unwrap_or(1);
    let scale = if scale.is_float() { scale.to_f32() } else { Vec::new() };
    let zero = match zero {
        Some(zero) if zero.is_bytes() => zero.to_f32(),
        Some(_) => Vec::new(),
        None => vec![0.0],
    };
    let fits = |list: &[f32]| !list.is_empty() && (list.len() == 1 || list.len() == count);
    if fits(&scale) && fits(&zero) {
        return Ok(Quantized { scale, zero, by_row });
    }
    Err(OnnxError::tensor(base, "scale and zero point are neither one nor one for each column or row"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }

    fn tensor(name: &str, dims: &[u64], kind: u64, data: Vec<u8>) -> Vec<u8> {
        let dims: Vec<u8> = dims.iter().flat_map(|&dim| number(1, dim)).collect();
        message(5, &[dims, number(2, kind), message(8, name.as_bytes()), data].concat())
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// A model with one quantized product whose weight was renamed, one bias and one quantized table.
    fn model() -> Vec<u8> {
        let node = [
            message(1, b"x"),
            message(1, b"onnx::MatMul_7_quantized"),
            message(3, b"/encoder/layer.0/query/MatMul_quant"),
            message(4, b"MatMulInteger"),
        ];
        let graph = [
            message(1, &node.concat()),
            tensor("onnx::MatMul_7_quantized", &[2, 3], 3, message(9, &[1, 2, 3, 4, 5, 0xff])),
            tensor("onnx::MatMul_7_scale", &[], 1, message(4, &floats(&[0.5]))),
            tensor("onnx::MatMul_7_zero_point", &[], 3, number(5, (-1_i64).cast_unsigned())),
            tensor("a.bias", &[2], 1, message(9, &floats(&[7.0, 8.0]))),
            tensor("embeddings.words.weight_quantized", &[1, 2], 2, message(9, &[200, 10])),
            tensor("embeddings.words.weight_scale", &[], 1, message(9, &floats(&[2.0]))),
            tensor("embeddings.words.weight_zero_point", &[], 2, message(5, &varint(100))),
            tensor("shape", &[1], 7, message(9, &[0; 8])),
        ];
        [number(1, 8), message(7, &graph.concat())].concat()
    }

    #[test]
    fn weights_are_dequantized_renamed_and_transposed() {
        let bytes = model();
        let graph = onnx::read(&bytes).unwrap();
        let tensors = tensors(&graph).unwrap();
        let names: Vec<_> = tensors.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.bias", "embeddings.words.weight", "encoder.layer.0.query.weight"]);
        assert_eq!(tensors["a.bias"].values(), [7.0, 8.0]);
        assert_eq!(tensors["embeddings.words.weight"].values(), [200.0, -180.0]);
        let query = &tensors["encoder.layer.0.query.weight"];
        assert_eq!((query.shape(), query.values()), (vec![3, 2], vec![1.0, 2.5, 1.5, 3.0, 2.0, 0.0]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, &bytes).unwrap();
        onnx_encoder(&path, folder.path()).unwrap();
        let written = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&written).unwrap().len(), 3);
    }

    fn node(operator: &str, name: &str, inputs: &[&str], attributes: &[(&str, u64)]) -> Vec<u8> {
        let inputs = inputs.iter().flat_map(|input| message(1, input.as_bytes()));
        let attribute =
            |(name, value): &(&str, u64)| message(5, &[message(1, name.as_bytes()), number(3, *value)].concat());
        let rest = [
            message(2, format!("{name}_out").as_bytes()),
            message(3, name.as_bytes()),
            message(4, operator.as_bytes()),
        ];
        let bytes = inputs.chain(rest.concat()).chain(attributes.iter().flat_map(attribute)).collect::<Vec<u8>>();
        message(1, &bytes)
    }

    fn graph(parts: &[Vec<u8>]) -> Vec<u8> {
        message(7, &parts.concat())
    }

    fn matrix(name: &str) -> Vec<u8> {
        tensor(name, &[2, 3], 1, message(9, &floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])))
    }

    fn values(parts: &[Vec<u8>], name: &str) -> (Vec<usize>, Vec<f32>) {
        let bytes = graph(parts);
        let graph = onnx::read(&bytes).unwrap();
        let tensors = tensors(&graph).unwrap();
        let weight = tensors.get(name).unwrap_or_else(|| panic!("{:?}", tensors.keys()));
        (weight.shape(), weight.values())
    }

    #[test]
    fn float_products_are_named_by_their_nodes_and_lie_as_published() {
        let turned = (vec![3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let straight = (vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let product = node("MatMul", "/layer.0/query/MatMul", &["x", "onnx::MatMul_9"], &[]);
        assert_eq!(values(&[product, matrix("onnx::MatMul_9")], "layer.0.query.weight"), turned);
        let product = node("Gemm", "/pooler/dense/Gemm", &["x", "pooler.dense.weight"], &[("transB", 1)]);
        assert_eq!(values(&[product, matrix("pooler.dense.weight")], "pooler.dense.weight"), straight);
        let biased = [
            node("MatMul", "MatMul_12", &["x", "w"], &[]),
            node("Cast", "Cast_3", &["MatMul_12_out"], &[]),
            node("Add", "Add_4", &["layer.0.key.bias", "Cast_3_out"], &[]),
            tensor("layer.0.key.bias", &[3], 1, message(9, &floats(&[0.0; 3]))),
            matrix("w"),
        ];
        assert_eq!(values(&biased, "layer.0.key.weight"), turned);
        let shared = [
            node("Identity", "same", &["onnx::MatMul_9"], &[]),
            node("MatMul", "/layer.1/query/MatMul", &["x", "same_out"], &[]),
            matrix("onnx::MatMul_9"),
        ];
        assert_eq!(values(&shared, "layer.1.query.weight"), turned);
        let halves: Vec<u8> = [1.0, -2.0].iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
        assert_eq!(values(&[tensor("a.bias", &[2], 10, message(9, &halves))], "a.bias"), (vec![2], vec![1.0, -2.0]));
        let computed = onnx::read(&graph(&[node("MatMul", "/layer.0/MatMul", &["q", "k"], &[])])).map(|_| ());
        assert!(computed.is_ok());
    }

    #[test]
    fn scales_of_rows_and_of_columns_are_told_apart() {
        let bytes = tensor("w", &[2, 2], 3, message(9, &[1, 2, 3, 4]));
        let scale = tensor("s", &[2], 1, message(9, &floats(&[10.0, 100.0])));
        let zero = tensor("z", &[2], 3, message(9, &[1, 0]));
        let with = |axis: u64| {
            [
                node("DequantizeLinear", "back", &["w", "s", "z"], &[("axis", axis)]),
                node("Gemm", "/dense/Gemm", &["x", "back_out"], &[("transB", 1)]),
                bytes.clone(),
                scale.clone(),
                zero.clone(),
            ]
        };
        assert_eq!(values(&with(0), "dense.weight").1, [0.0, 10.0, 300.0, 400.0]);
        assert_eq!(values(&with(1), "dense.weight").1, [0.0, 200.0, 20.0, 400.0]);
        let inside = node("MatMulIntegerToFloat", "/dense/MatMul_quant", &["x", "w", "a", "s", "", "z"], &[]);
        assert_eq!(values(&[inside, bytes, scale, zero], "dense.weight").1, [0.0, 20.0, 200.0, 400.0]);
    }

    #[test]
    fn modules_are_told_by_their_nodes() {
        let module = |node: &str| module(node).unwrap_or_else(|error| error.to_string());
        assert_eq!(module("/encoder/layer.0/query/MatMul_quant"), "encoder.layer.0.query");
        assert_eq!(module("/bert/pooler/dense/Gemm_MatMul_quant"), "bert.pooler.dense");
        assert_eq!(module("/classifier/Gemm"), "classifier");
        assert!(module("MatMul_123").contains("MatMul_123"));
    }

    #[test]
    fn contradictions_are_errors() {
        let convert = |bytes: &[u8]| onnx::read(bytes).and_then(|graph| tensors(&graph).map(|_| ())).unwrap_err();
        assert_eq!(convert(b""), OnnxError::NoGraph);
        assert_eq!(convert(&graph(&[vec![3]])), OnnxError::Wire(0));
        assert_eq!(convert(&graph(&[vec![0x0a, 0xff]])), OnnxError::Truncated);
        let wrong = [
            tensor("x.bias", &[u64::MAX, 2], 1, message(9, &floats(&[1.0]))),
            tensor("x.bias", &[1 << 62, 4], 1, message(9, &floats(&[1.0]))),
            tensor("x.bias", &[2], 1, message(9, &floats(&[1.0]))),
            tensor("x.bias", &[1], 1, [message(9, &floats(&[1.0])), number(14, 1)].concat()),
            tensor("embeddings.weight_quantized", &[1], 2, message(9, &[1])),
            [node("MatMul", "/x/MatMul", &["a", "w"], &[]), matrix("w"), node("MatMul", "/x/MatMul", &["a", "w"], &[])]
                .concat(),
        ];
        for tensor in wrong {
            assert!(matches!(convert(&graph(&[tensor])), OnnxError::Tensor(..)));
        }
        let sides = convert(&graph(&[tensor("x.bias", &[1; 40], 1, message(9, &floats(&[1.0])))]));
        assert_eq!(sides, OnnxError::Many(16, "sides of a tensor"));
        let inputs = convert(&graph(&[node("MatMul", "/x/MatMul", &["a"; 1025], &[])]));
        assert_eq!(inputs, OnnxError::Many(1024, "inputs of a node"));
        let fused = convert(&graph(&[node("Attention", "Attention_0", &["x", "w"], &[])]));
        assert_eq!(fused, OnnxError::Operator("Attention".to_owned()));
        let nameless = convert(&graph(&[node("MatMul", "MatMul_7", &["x", "w"], &[]), matrix("w")]));
        assert_eq!(nameless, OnnxError::Module("MatMul_7".to_owned()));
    }

    proptest! {
        #[test]
        fn broken_files_never_panic(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
            let mut bytes = model();
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Ok(graph) = onnx::read(&bytes)
                && let Ok(tensors) = tensors(&graph)
            {
                tensors.into_values().for_each(|weight| drop(weight.values()));
            }
        }
    }
}
