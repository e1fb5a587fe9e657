//! A quantized ONNX encoder becomes float32 safetensors under the names it was published with.
//!
//! onnxruntime's dynamic quantization replaces each weight `W` of shape `[in, out]` by `W_quantized`, `W_scale` and
//! `W_zero_point` with `W = (quantized - zero_point) * scale`, and each product by a `MatMulInteger` node. Exporters
//! often rename `W`; the node's own name then still tells the module it came from:
//! `/encoder/layer.0/attention/self/query/MatMul_quant`. The published layout of a linear weight is `[out, in]`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};

use super::onnx::{self, Graph, Initializer, OnnxError};
use super::{StoreError, read_text};

/// Encoders of this kind have tens of megabytes.
const ONNX_BYTES: u64 = 1 << 30;

/// A tensor in row-major order.
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// Replaces `model.onnx` in `folder` by `model.safetensors`.
pub(super) fn onnx_int8_bert(folder: &Path) -> Result<(), StoreError> {
    let source = folder.join("model.onnx");
    let target = folder.join("model.safetensors");
    let bytes = read_text(&source, ONNX_BYTES)?;
    let refuse = |why: String| StoreError::NotAModel { path: source.clone(), why };
    let tensors = onnx::read(&bytes).and_then(|graph| tensors(&graph)).map_err(|error| refuse(error.to_string()))?;
    let serialized = serialize(tensors).map_err(|error| refuse(error.to_string()))?;
    fs::write(&target, serialized).map_err(StoreError::io("cannot write", &target))?;
    fs::remove_file(&source).map_err(StoreError::io("cannot remove", &source))
}

/// A tensor as it stands in a safetensors file.
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<u8>,
}

impl From<Tensor> for Stored {
    fn from(tensor: Tensor) -> Stored {
        let data = tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect();
        Stored { dtype: Dtype::F32, shape: tensor.shape, data }
    }
}

pub(super) fn serialize(tensors: BTreeMap<String, impl Into<Stored>>) -> Result<Vec<u8>, SafeTensorError> {
    let tensors: Vec<(String, Stored)> = tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, Stored { dtype, shape, data }) in &tensors {
        views.push((name, TensorView::new(*dtype, shape.clone(), data)?));
    }
    // What the reference tools write, so that sums can be compared with theirs.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata))
}

fn tensors(graph: &Graph<'_>) -> Result<BTreeMap<String, Tensor>, OnnxError> {
    let mut tensors = BTreeMap::new();
    for (&name, initializer) in &graph.initializers {
        let published = name.ends_with(".weight") || name.ends_with(".bias");
        if published && initializer.is_float() && !initializer.dims.is_empty() {
            let tensor = Tensor { shape: initializer.dims.clone(), data: initializer.to_f32()? };
            tensors.insert(name.to_owned(), tensor);
        }
        match name.strip_suffix("_quantized") {
            Some(base) if base.ends_with(".weight") && base.contains("embeddings") => {
                tensors.insert(base.to_owned(), dequantize(graph, base)?);
            }
            _ => {}
        }
    }
    for product in &graph.products {
        let Some(base) = product.weight.strip_suffix("_quantized") else { continue };
        let name = if base.ends_with(".weight") { base.to_owned() } else { module(product.name) + ".weight" };
        if tensors.contains_key(&name) {
            return Err(OnnxError::Tensor(name, "two weights have this name"));
        }
        tensors.insert(name, transpose(dequantize(graph, base)?, base)?);
    }
    Ok(tensors)
}

/// The module a node was exported from.
fn module(node: &str) -> String {
    let path = node.trim_start_matches('/');
    // A product with a bias of its own was one node before it was quantized.
    let path =
        ["/Gemm_MatMul_quant", "/MatMul_quant"].into_iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path);
    path.replace('/', ".")
}

fn find<'g>(graph: &'g Graph<'_>, base: &str, part: &str) -> Result<&'g Initializer<'g>, OnnxError> {
    let name = format!("{base}{part}");
    graph.initializers.get(name.as_str()).ok_or(OnnxError::Tensor(name, "it is missing"))
}

fn dequantize(graph: &Graph<'_>, base: &str) -> Result<Tensor, OnnxError> {
    let quantized = find(graph, base, "_quantized")?;
    let scale = find(graph, base, "_scale")?.to_f32()?;
    let zero = find(graph, base, "_zero_point")?.to_f32()?;
    let columns = quantized.dims.last().copied().unwrap_or(1).max(1);
    let fits = |list: &[f32]| list.len() == 1 || list.len() == columns;
    if !fits(&scale) || !fits(&zero) {
        return Err(OnnxError::Tensor(base.to_owned(), "scale and zero point are neither one nor one per column"));
    }
    let mut data = quantized.to_f32()?;
    for row in data.chunks_mut(columns) {
        for (column, value) in row.iter_mut().enumerate() {
            *value = (*value - zero[column.min(zero.len() - 1)]) * scale[column.min(scale.len() - 1)];
        }
    }
    Ok(Tensor { shape: quantized.dims.clone(), data })
}

fn transpose(tensor: Tensor, name: &str) -> Result<Tensor, OnnxError> {
    let [rows, columns] = tensor.shape[..] else {
        return Err(OnnxError::Tensor(name.to_owned(), "a factor of a product is no matrix"));
    };
    let mut data = Vec::with_capacity(tensor.data.len());
    for column in 0..columns {
        data.extend((0..rows).map(|row| tensor.data[row * columns + column]));
    }
    Ok(Tensor { shape: vec![columns, rows], data })
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
        let tensors = tensors(&onnx::read(&bytes).unwrap()).unwrap();
        let names: Vec<_> = tensors.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.bias", "embeddings.words.weight", "encoder.layer.0.query.weight"]);
        assert_eq!(tensors["a.bias"].data, [7.0, 8.0]);
        assert_eq!(tensors["embeddings.words.weight"].data, [200.0, -180.0]);
        let query = &tensors["encoder.layer.0.query.weight"];
        assert_eq!((query.shape.as_slice(), query.data.as_slice()), (&[3, 2][..], &[1.0, 2.5, 1.5, 3.0, 2.0, 0.0][..]));
        let serialized = serialize(tensors).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&serialized).unwrap().len(), 3);
    }

    #[test]
    fn modules_are_told_by_their_nodes() {
        assert_eq!(module("/encoder/layer.0/query/MatMul_quant"), "encoder.layer.0.query");
        assert_eq!(module("/bert/pooler/dense/Gemm_MatMul_quant"), "bert.pooler.dense");
        assert_eq!(module("/classifier/Gemm_MatMul_quant"), "classifier");
    }

    #[test]
    fn contradictions_are_errors() {
        let graph = |parts: &[Vec<u8>]| message(7, &parts.concat());
        let convert = |bytes: &[u8]| onnx::read(bytes).and_then(|graph| tensors(&graph)).map(|_| ()).unwrap_err();
        assert_eq!(convert(b""), OnnxError::NoGraph);
        assert_eq!(convert(&graph(&[vec![3]])), OnnxError::Wire(0));
        assert_eq!(convert(&graph(&[vec![0x0a, 0xff]])), OnnxError::Truncated);
        let wrong = [
            tensor("x.bias", &[u64::MAX, 2], 1, message(9, &floats(&[1.0]))),
            tensor("x.bias", &[1 << 62, 4], 1, message(9, &floats(&[1.0]))),
            tensor("x.bias", &[2], 1, message(9, &floats(&[1.0]))),
            tensor("x.bias", &[1], 1, [message(9, &floats(&[1.0])), number(14, 1)].concat()),
            tensor("embeddings.weight_quantized", &[1], 2, message(9, &[1])),
        ];
        for tensor in wrong {
            assert!(matches!(convert(&graph(&[tensor])), OnnxError::Tensor(..)));
        }
    }

    proptest! {
        #[test]
        fn broken_files_never_panic(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
            let mut bytes = model();
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Ok(graph) = onnx::read(&bytes) {
                let _ = tensors(&graph);
            }
        }
    }
}
