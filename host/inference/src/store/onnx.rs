//! As much of ONNX as one conversion needs: the constants of a graph, its products, and what passes constants on.
//!
//! An ONNX file is a protocol-buffers message. This reader knows the wire format (varints, fixed and length-delimited
//! fields; protobuf.dev, "Encoding") and the few field numbers of `onnx.proto` that matter here, and skips the rest. It
//! never recurses with the input, and every list it makes is bounded by the bytes it was read from and, where an entry
//! takes more here than there, by a number.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::{bf16, f16};

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
    #[error("it has more than {0} {1}")]
    Many(usize, &'static str),
    #[error("tensor {0:?}: {1}")]
    Tensor(String, &'static str),
    #[error("operator {0} keeps its weights in a form of its own; export the model again without fusing or packing")]
    Operator(String),
    #[error("node {0:?} does not say of which module it is; export the model again with a newer version of PyTorch")]
    Module(String),
}

impl OnnxError {
    pub(super) fn tensor(name: &str, what: &'static str) -> OnnxError {
        OnnxError::Tensor(name.chars().take(80).collect(), what)
    }
}

/// A graph's constants and what it multiplies with them.
pub(super) struct Graph<'a> {
    /// Constant tensors by name.
    pub(super) initializers: BTreeMap<&'a str, Initializer<'a>>,
    /// The nodes that may have weights, in the graph's order.
    pub(super) nodes: Vec<Node<'a>>,
    /// Which node makes a name.
    makers: BTreeMap<&'a str, usize>,
    /// Which nodes read a name.
    users: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Graph<'a> {
    /// The node that makes `name`, if it is one of those that may have weights.
    pub(super) fn maker(&self, name: &str) -> Option<&Node<'a>> {
        self.makers.get(name).and_then(|at| self.nodes.get(*at))
    }

    /// The nodes of those that read `name`.
    pub(super) fn users(&self, name: &str) -> impl Iterator<Item = &Node<'a>> {
        self.users.get(name).into_iter().flatten().filter_map(|at| self.nodes.get(*at))
    }
}

/// A node that may have weights or tell their names: a product, one that passes a constant on, or one that a product's
/// result goes through.
pub(super) struct Node<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// What it does.
    pub(super) operator: &'a str,
    /// The names of what it reads.
    pub(super) inputs: Vec<&'a str>,
    /// `transB` of a `Gemm`: whether the right factor lies with its columns first.
    pub(super) transposed: bool,
    /// `axis` of a `DequantizeLinear`: along which there is a scale each.
    pub(super) axis: i64,
    /// The name of what it makes.
    pub(super) output: &'a str,
    constant: Option<&'a [u8]>,
}

/// A constant tensor whose data fit its shape.
pub(super) struct Initializer<'a> {
    name: &'a str,
    /// Its shape.
    pub(super) dims: Vec<usize>,
    kind: Kind,
    raw: Option<&'a [u8]>,
    floats: Cow<'a, [u8]>,
    integers: Vec<i32>,
}

/// Those of `TensorProto.DataType` that weights have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Uint8,
    Int8,
    Float16,
    Bfloat16,
    /// Anything else, such as the shapes that a graph computes with.
    Other,
}

impl Kind {
    fn of(number: u64) -> Kind {
        match number {
            1 => Kind::Float,
            2 => Kind::Uint8,
            3 => Kind::Int8,
            10 => Kind::Float16,
            16 => Kind::Bfloat16,
            _ => Kind::Other,
        }
    }

    fn width(self) -> usize {
        match self {
            Kind::Float => 4,
            Kind::Float16 | Kind::Bfloat16 => 2,
            Kind::Uint8 | Kind::Int8 | Kind::Other => 1,
        }
    }
}

/// A large encoder has some thousand constants and ten thousand nodes, of few inputs each.
const MAX_CONSTANTS: usize = 1 << 17;
const MAX_NODES: usize = 1 << 19;
const MAX_INPUTS: usize = 1 << 10;
const MAX_RANK: usize = 16;

/// Nodes that have weights, or pass on those of others.
const OPERATORS: [&str; 12] = [
    "MatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "FusedMatMul",
    "Gemm",
    "DequantizeLinear",
    "Identity",
    "Constant",
    "Cast",
    "Mul",
    "Add",
];
/// Nodes whose weights are several modules', or are packed in words.
const HIDING: [&str; 6] =
    ["Attention", "QAttention", "PackedAttention", "MultiHeadAttention", "MatMulNBits", "MatMulBnb4"];

impl Initializer<'_> {
    /// Whether the elements are floats.
    pub(super) fn is_float(&self) -> bool {
        matches!(self.kind, Kind::Float | Kind::Float16 | Kind::Bfloat16)
    }

    /// Whether the elements are bytes.
    pub(super) fn is_bytes(&self) -> bool {
        matches!(self.kind, Kind::Uint8 | Kind::Int8)
    }

    /// The elements as floats, in row-major order, as many as the shape says.
    pub(super) fn to_f32(&self) -> Vec<f32> {
        let raw = self.raw.unwrap_or(&self.floats);
        let half = |bits: [u8; 2]| match self.kind {
            Kind::Bfloat16 => bf16::from_le_bytes(bits).to_f32(),
            _ => f16::from_le_bytes(bits).to_f32(),
        };
        match (self.kind, self.raw) {
            (Kind::Float, _) => raw.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
            (Kind::Float16 | Kind::Bfloat16, Some(raw)) => {
                raw.as_chunks::<2>().0.iter().map(|two| half(*two)).collect()
            }
            (Kind::Float16 | Kind::Bfloat16, None) => {
                self.integers.iter().map(|bits| half((*bits as u16).to_le_bytes())).collect()
            }
            (Kind::Int8, Some(raw)) => raw.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
            (_, Some(raw)) => raw.iter().map(|byte| f32::from(*byte)).collect(),
            (_, None) => self.integers.iter().map(|value| *value as f32).collect(),
        }
    }

    /// Whether the data are as many as the shape says, and bytes where they are to be bytes.
    fn check(&self) -> Result<(), &'static str> {
        let count = match (self.kind, self.raw) {
            (Kind::Other, _) => return Ok(()),
            (kind, Some(raw)) if raw.len().is_multiple_of(kind.width()) => raw.len() / kind.width(),
            (_, Some(_)) => return Err("its data end inside a value"),
            (Kind::Float, None) if self.floats.len().is_multiple_of(4) => self.floats.len() / 4,
            (Kind::Float, None) => return Err("its data end inside a value"),
            (_, None) => self.integers.len(),
        };
        let inside = |least: i32, most: i32| self.integers.iter().all(|value| (least..=most).contains(value));
        match self.kind {
            Kind::Uint8 if !inside(0, 255) => return Err("a value is no unsigned byte"),
            Kind::Int8 if !inside(-128, 127) => return Err("a value is no signed byte"),
            _ => {}
        }
        let expected = self.dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if expected == Some(count) { Ok(()) } else { Err("its data do not fit its shape") }
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
    let mut read =
        Graph { initializers: BTreeMap::new(), nodes: Vec::new(), makers: BTreeMap::new(), users: BTreeMap::new() };
    for field in Fields::new(graph.ok_or(OnnxError::NoGraph)?) {
        if read.initializers.len() > MAX_CONSTANTS {
            return Err(OnnxError::Many(MAX_CONSTANTS, "constants"));
        }
        if read.nodes.len() > MAX_NODES {
            return Err(OnnxError::Many(MAX_NODES, "nodes"));
        }
        match field? {
            (1, Value::Bytes(message)) => {
                let node = node(message)?;
                if HIDING.contains(&node.operator) {
                    return Err(OnnxError::Operator(node.operator.to_owned()));
                }
                if let Some(constant) = node.constant {
                    let tensor = initializer(constant)?;
                    read.initializers.insert(node.output, Initializer { name: node.output, ..tensor });
                } else if OPERATORS.contains(&node.operator) {
                    let at = read.nodes.len();
                    read.makers.insert(node.output, at);
                    for input in &node.inputs {
                        read.users.entry(input).or_default().push(at);
                    }
                    read.nodes.push(node);
                }
            }
            (5, Value::Bytes(tensor)) => {
                let tensor = initializer(tensor)?;
                read.initializers.insert(tensor.name, tensor);
            }
            _ => {}
        }
    }
    Ok(read)
}

/// A `NodeProto`.
fn node(bytes: &[u8]) -> Result<Node<'_>, OnnxError> {
    let mut node =
        Node { name: "", operator: "", inputs: Vec::new(), transposed: false, axis: 1, output: "", constant: None };
    for field in Fields::new(bytes) {
        match field? {
            (1, Value::Bytes(_)) if node.inputs.len() == MAX_INPUTS => {
                return Err(OnnxError::Many(MAX_INPUTS, "inputs of a node"));
            }
            (1, Value::Bytes(text)) => node.inputs.push(utf8(text)?),
            (2, Value::Bytes(text)) if node.output.is_empty() => node.output = utf8(text)?,
            (3, Value::Bytes(text)) => node.name = utf8(text)?,
            (4, Value::Bytes(text)) => node.operator = utf8(text)?,
            (5, Value::Bytes(attribute)) => {
                let (mut name, mut number, mut tensor) = ("", 0, None);
                for field in Fields::new(attribute) {
                    match field? {
                        (1, Value::Bytes(text)) => name = utf8(text)?,
                        (3, Value::Number(value)) => number = value.cast_signed(),
                        (5, Value::Bytes(value)) => tensor = Some(value),
                        _ => {}
                    }
                }
                match name {
                    "transB" => node.transposed = number != 0,
                    "axis" => node.axis = number,
                    "value" => node.constant = tensor,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    node.constant = node.constant.filter(|_| node.operator == "Constant");
    Ok(node)
}

/// A `TensorProto`.
fn initializer(bytes: &[u8]) -> Result<Initializer<'_>, OnnxError> {
    let floats = Cow::Borrowed(&[][..]);
    let mut tensor =
        Initializer { name: "", dims: Vec::new(), kind: Kind::Other, raw: None, floats, integers: Vec::new() };
    let mut dims = Vec::new();
    let mut external = false;
    for field in Fields::new(bytes) {
        match field? {
            (1, _) if dims.len() > MAX_RANK => return Err(OnnxError::Many(MAX_RANK, "sides of a tensor")),
            (1, Value::Number(dim)) => dims.push(dim),
            (1, Value::Bytes(packed)) if packed.len() > 10 * MAX_RANK => {
                return Err(OnnxError::Many(MAX_RANK, "sides of a tensor"));
            }
            (1, Value::Bytes(packed)) => varints(packed, |dim| dims.push(dim))?,
            (2, Value::Number(kind)) => tensor.kind = Kind::of(kind),
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
    let fault = |what| OnnxError::tensor(tensor.name, what);
    if external {
        return Err(fault("its data lie in another file; save the model as one file"));
    }
    let dims: Result<_, _> = dims.into_iter().map(usize::try_from).collect();
    tensor.dims = dims.map_err(|_| fault("a dimension is too large"))?;
    tensor.check().map_err(|what| OnnxError::tensor(tensor.name, what))?;
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
