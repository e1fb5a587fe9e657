//! As much of ONNX as one conversion needs: the initializers of a graph and its `MatMulInteger` nodes.
//!
//! An ONNX file is a protocol-buffers message. This reader knows the wire format (varints, fixed and length-delimited
//! fields; protobuf.dev, "Encoding") and the few field numbers of `onnx.proto` that matter here, and skips the rest. It
//! never recurses with the input, and every list it makes is bounded by the bytes it was read from.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// What is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OnnxError {
    #[error("it ends inside a field")]
    Truncated,
    #[error("byte {0} begins no protobuf field")]
    Wire(usize),
    #[error("it has no graph")]
    NoGraph,
    #[error("a name is not UTF-8")]
    Name,
    #[error("tensor {0:?}: {1}")]
    Tensor(String, &'static str),
}

/// A graph's constants and quantized products.
pub(super) struct Graph<'a> {
    /// Constant tensors by name.
    pub(super) initializers: BTreeMap<&'a str, Initializer<'a>>,
    /// The products, in the graph's order.
    pub(super) products: Vec<Product<'a>>,
}

/// A `MatMulInteger` node.
pub(super) struct Product<'a> {
    /// The node's name.
    pub(super) name: &'a str,
    /// The name of the right factor.
    pub(super) weight: &'a str,
}

/// A constant tensor.
pub(super) struct Initializer<'a> {
    name: &'a str,
    /// Its shape.
    pub(super) dims: Vec<usize>,
    kind: u64,
    raw: Option<&'a [u8]>,
    floats: Cow<'a, [u8]>,
    integers: Vec<i32>,
}

/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const INT8: u64 = 3;

impl Initializer<'_> {
    /// Whether the elements are 32-bit floats.
    pub(super) fn is_float(&self) -> bool {
        self.kind == FLOAT
    }

    /// The elements as floats, in row-major order, as many as the shape says.
    pub(super) fn to_f32(&self) -> Result<Vec<f32>, OnnxError> {
        let fault = |what| OnnxError::Tensor(self.name.chars().take(80).collect(), what);
        let float = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
        };
        let values: Vec<f32> = match (self.kind, self.raw) {
            (FLOAT, Some(raw)) => float(raw),
            (FLOAT, None) => float(&self.floats),
            (UINT8, Some(raw)) => raw.iter().map(|&byte| f32::from(byte)).collect(),
            (INT8, Some(raw)) => raw.iter().map(|&byte| f32::from(byte.cast_signed())).collect(),
            (UINT8, None) => {
                let bytes: Result<Vec<u8>, _> = self.integers.iter().map(|&value| u8::try_from(value)).collect();
                bytes.map_err(|_| fault("a value is no unsigned byte"))?.into_iter().map(f32::from).collect()
            }
            (INT8, None) => {
                let bytes: Result<Vec<i8>, _> = self.integers.iter().map(|&value| i8::try_from(value)).collect();
                bytes.map_err(|_| fault("a value is no signed byte"))?.into_iter().map(f32::from).collect()
            }
            _ => return Err(fault("its elements are neither floats nor bytes")),
        };
        let expected = self.dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if expected == Some(values.len()) { Ok(values) } else { Err(fault("its data do not fit its shape")) }
    }
}

/// Reads a `ModelProto`.
pub(super) fn read(bytes: &[u8]) -> Result<Graph<'_>, OnnxError> {
    let mut graph = None;
    for field in Fields::new(bytes) {
        if let (7, Value::Bytes(message)) = field? {
            graph = Some(message);
        }
    }
    let mut initializers = BTreeMap::new();
    let mut products = Vec::new();
    for field in Fields::new(graph.ok_or(OnnxError::NoGraph)?) {
        match field? {
            (1, Value::Bytes(node)) => products.extend(product(node)?),
            (5, Value::Bytes(tensor)) => {
                let tensor = initializer(tensor)?;
                initializers.insert(tensor.name, tensor);
            }
            _ => {}
        }
    }
    Ok(Graph { initializers, products })
}

/// A `NodeProto`, when it is a `MatMulInteger`.
fn product(bytes: &[u8]) -> Result<Option<Product<'_>>, OnnxError> {
    let (mut inputs, mut name, mut operator) = (Vec::new(), "", "");
    for field in Fields::new(bytes) {
        match field? {
            (1, Value::Bytes(text)) => inputs.push(utf8(text)?),
            (3, Value::Bytes(text)) => name = utf8(text)?,
            (4, Value::Bytes(text)) => operator = utf8(text)?,
            _ => {}
        }
    }
    Ok(match inputs.get(1) {
        Some(weight) if operator == "MatMulInteger" => Some(Product { name, weight }),
        _ => None,
    })
}

/// A `TensorProto`.
fn initializer(bytes: &[u8]) -> Result<Initializer<'_>, OnnxError> {
    let floats = Cow::Borrowed(&[][..]);
    let mut tensor = Initializer { name: "", dims: Vec::new(), kind: 0, raw: None, floats, integers: Vec::new() };
    let mut dims = Vec::new();
    let mut external = false;
    for field in Fields::new(bytes) {
        match field? {
            (1, Value::Number(dim)) => dims.push(dim),
            (1, Value::Bytes(packed)) => varints(packed, |dim| dims.push(dim))?,
            (2, Value::Number(kind)) => tensor.kind = kind,
            (4, Value::Bytes(packed)) if tensor.floats.is_empty() => tensor.floats = Cow::Borrowed(packed),
            (4, Value::Bytes(packed)) => tensor.floats.to_mut().extend_from_slice(packed),
            (4, Value::Fixed32(value)) => tensor.floats.to_mut().extend_from_slice(&value),
            // A negative int32 is sent as its 64-bit two's complement, so the low half is the value.
            (5, Value::Number(value)) => tensor.integers.push(value as u32 as i32),
            (5, Value::Bytes(packed)) => varints(packed, |value| tensor.integers.push(value as u32 as i32))?,
            (8, Value::Bytes(text)) => tensor.name = utf8(text)?,
            (9, Value::Bytes(raw)) => tensor.raw = Some(raw),
            (14, Value::Number(location)) => external = location != 0,
            _ => {}
        }
    }
    let name = tensor.name;
    let fault = |what| OnnxError::Tensor(name.chars().take(80).collect(), what);
    if external {
        return Err(fault("its data lie in another file"));
    }
    let dims: Result<_, _> = dims.into_iter().map(usize::try_from).collect();
    tensor.dims = dims.map_err(|_| fault("a dimension is too large"))?;
    Ok(tensor)
}

fn utf8(bytes: &[u8]) -> Result<&str, OnnxError> {
    std::str::from_utf8(bytes).map_err(|_| OnnxError::Name)
}

fn varints(mut packed: &[u8], mut each: impl FnMut(u64)) -> Result<(), OnnxError> {
    while !packed.is_empty() {
        let (value, rest) = varint(packed).ok_or(OnnxError::Truncated)?;
        each(value);
        packed = rest;
    }
    Ok(())
}

/// A little-endian base-128 number of at most ten bytes, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

enum Value<'a> {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of one message: number and value.
struct Fields<'a> {
    all: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes.len(), rest: bytes }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), OnnxError> {
        let start = self.all - self.rest.len();
        let (key, rest) = varint(self.rest).ok_or(OnnxError::Truncated)?;
        let (value, rest) = match key & 7 {
            0 => varint(rest).map(|(number, rest)| (Value::Number(number), rest)),
            1 => rest.split_first_chunk::<8>().map(|(_, rest)| (Value::Fixed64, rest)),
            2 => varint(rest).and_then(|(length, rest)| {
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                Some((Value::Bytes(bytes), rest))
            }),
            5 => rest.split_first_chunk::<4>().map(|(four, rest)| (Value::Fixed32(*four), rest)),
            _ => return Err(OnnxError::Wire(start)),
        }
        .ok_or(OnnxError::Truncated)?;
        self.rest = rest;
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), OnnxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}
