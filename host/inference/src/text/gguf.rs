//! GGUF files: one file with a model's metadata, its tokenizer and its weights.
//!
//! A model file is downloaded from anywhere and handed to us by name, so its header is hostile. Every count, length and
//! offset is checked against a fixed bound and against the file's end before anything is allocated for it; what the
//! parser keeps is a list of byte ranges, a small multiple of the header's own size. Values are decoded when they are
//! asked for. candle has a GGUF reader too; it copies arrays of up to 2³⁰ values onto the heap and reads weights
//! through a buffer, so only its names for the weight types are used here.
//!
//! The format is described in `docs/gguf.md` of the ggml project; versions 2 and 3, little endian, are read.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::mapped::Mapped;
use candle_core::quantized::GgmlDType;

/// Metadata entries a file may have.
const MAX_ENTRIES: u64 = 1 << 16;
/// Tensors a file may have.
const MAX_TENSORS: u64 = 1 << 16;
/// Bytes in a key or a tensor's name; the format's own bound for keys.
const MAX_NAME: u64 = (1 << 16) - 1;
/// Bytes in a string value. Chat templates are the longest, some 100 KiB at most.
const MAX_STRING: u64 = 1 << 24;
/// Values in an array. Vocabularies are the longest, below 2²⁰.
const MAX_ARRAY: u64 = 1 << 22;
/// Arrays in arrays.
const MAX_DEPTH: usize = 4;
/// Bytes of names kept in all.
const MAX_KEPT: usize = 1 << 25;
/// The alignment of weights when the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not such a file.
    #[error("not a GGUF file: {0}")]
    NotGguf(String),
    /// The file ends early, for example because a download did.
    #[error("the file ends inside {what} (byte {at} of {length}): it is truncated or damaged; fetch it again")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where.
        at: u64,
        /// The file's length.
        length: u64,
    },
    /// A value that the format forbids, or beyond what this reader takes.
    #[error("{what}: {fault}")]
    Invalid {
        /// The key or tensor.
        what: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A key or tensor that a model needs.
    #[error("{0} is missing from the file")]
    Missing(String),
}

impl GgufError {
    pub(crate) fn invalid(what: impl Into<String>, fault: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), fault: fault.into() }
    }
}

/// A metadata value's type, by the number that the format gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_number(number: u32) -> Option<Self> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(number as usize).copied()
    }

    /// Bytes of one value, for types of a fixed size.
    fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    /// The value's bytes; a string without its length, an array without its type and count.
    bytes: Range<usize>,
    /// For arrays: the type of the elements and how many.
    elements: Option<(Kind, usize)>,
}

/// Where a tensor lies and how to read it.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// How its values are stored.
    pub dtype: GgmlDType,
    /// Its shape, slowest dimension first: `[rows, columns]` for a weight.
    pub shape: Vec<usize>,
    bytes: Range<usize>,
}

impl TensorInfo {
    /// Values in it.
    pub fn elements(&self) -> usize {
        // Checked when the header was read.
        self.shape.iter().product()
    }
}

/// The header of a file: what is in it and where.
#[derive(Debug)]
pub struct Header {
    entries: HashMap<String, Entry>,
    tensors: HashMap<String, TensorInfo>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    kept: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: u64, what: &str) -> Result<Range<usize>, GgufError> {
        let end = usize::try_from(count).ok().and_then(|n| self.at.checked_add(n));
        let Some(end) = end.filter(|end| *end <= self.bytes.len()) else {
            return Err(GgufError::Truncated {
                what: what.into(),
                at: self.at as u64,
                length: self.bytes.len() as u64,
            });
        };
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let range = self.take(N as u64, what)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[range]);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, bound: u64, what: &str) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > bound {
            return Err(GgufError::invalid(what, format!("{count} is more than the {bound} that are accepted")));
        }
        Ok(count)
    }

    fn name(&mut self, what: &str) -> Result<String, GgufError> {
        let length = self.count(MAX_NAME, what)?;
        let range = self.take(length, what)?;
        self.kept += range.len() + size_of::<Entry>();
        if self.kept > MAX_KEPT {
            return Err(GgufError::invalid(what, format!("names take more than the {MAX_KEPT} bytes accepted")));
        }
        match std::str::from_utf8(&self.bytes[range]) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(GgufError::invalid(what, "is not UTF-8")),
        }
    }

    fn kind(&mut self, what: &str) -> Result<Kind, GgufError> {
        let number = self.u32(what)?;
        Kind::from_number(number).ok_or_else(|| GgufError::invalid(what, format!("unknown value type {number}")))
    }

    fn value(&mut self, kind: Kind, what: &str, depth: usize) -> Result<Entry, GgufError> {
        match (kind, kind.size()) {
            (_, Some(size)) => Ok(Entry { kind, bytes: self.take(size, what)?, elements: None }),
            (Kind::String, _) => {
                let length = self.count(MAX_STRING, what)?;
                Ok(Entry { kind, bytes: self.take(length, what)?, elements: None })
            }
            _ => {
                if depth == MAX_DEPTH {
                    return Err(GgufError::invalid(what, format!("arrays nest deeper than {MAX_DEPTH}")));
                }
                let element = self.kind(what)?;
                let count = self.count(MAX_ARRAY, what)?;
                let start = self.at;
                if let Some(size) = element.size() {
                    self.take(count * size, what)?;
                } else {
                    // Each element takes at least its length's bytes, so the file's end bounds this loop.
                    for _ in 0..count {
                        self.value(element, what, depth + 1)?;
                    }
                }
                let elements = usize::try_from(count).ok().map(|count| (element, count));
                Ok(Entry { kind, bytes: start..self.at, elements })
            }
        }
    }
}

impl Header {
    /// Reads the header at the start of `bytes`, the whole file.
    ///
    /// # Errors
    /// Whatever [`GgufError`] but `Io` says.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut reader = Reader { bytes, at: 0, kept: 0 };
        let magic: [u8; 4] = reader.array("the magic")?;
        if magic != *b"GGUF" {
            return Err(GgufError::NotGguf(format!("it starts with {magic:02x?}")));
        }
        match reader.u32("the version")? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(GgufError::NotGguf("it is big-endian, which is not supported".into()));
            }
            version => return Err(GgufError::NotGguf(format!("version {version} is not supported, only 2 and 3 are"))),
        }
        let tensor_count = reader.count(MAX_TENSORS, "the number of tensors")?;
        let entry_count = reader.count(MAX_ENTRIES, "the number of metadata entries")?;
        let mut entries = HashMap::new();
        for i in 0..entry_count {
            let key = reader.name(&format!("metadata key {i}"))?;
            let what = format!("metadata {}", quoted(&key));
            let kind = reader.kind(&what)?;
            let entry = reader.value(kind, &what, 0)?;
            if entries.insert(key, entry).is_some() {
                return Err(GgufError::invalid(what, "occurs twice"));
            }
        }
        let mut header = Self { entries, tensors: HashMap::new() };
        header.read_tensors(&mut reader, tensor_count)?;
        Ok(header)
    }

    /// The header with the bytes that it was parsed from.
    pub fn view<'a>(&'a self, bytes: &'a [u8]) -> View<'a> {
        View { header: self, bytes, file: None }
    }

    fn read_tensors(&mut self, reader: &mut Reader<'_>, count: u64) -> Result<(), GgufError> {
        let mut found = Vec::new();
        for i in 0..count {
            let name = reader.name(&format!("the name of tensor {i}"))?;
            let what = format!("tensor {}", quoted(&name));
            let rank = reader.u32(&what)?;
            if !(1..=4).contains(&rank) {
                return Err(GgufError::invalid(what, format!("has {rank} dimensions, not 1 to 4")));
            }
            let mut dims = Vec::with_capacity(4);
            for _ in 0..rank {
                dims.push(reader.u64(&what)?);
            }
            let number = reader.u32(&what)?;
            let Some(dtype) = weight_type(number) else {
                let fault = "is not supported; take a Q4_0, Q4_1, Q5, Q8_0 or K-quant file";
                return Err(GgufError::invalid(what, format!("weight type {number} {fault}")));
            };
            let offset = reader.u64(&what)?;
            found.push((name, what, dims, dtype, offset));
        }
        let alignment = self.alignment(reader.bytes)?;
        let data = (reader.at as u64).checked_next_multiple_of(alignment);
        for (name, what, dims, dtype, offset) in found {
            let info = locate(reader.bytes.len(), data, alignment, &what, &dims, dtype, offset)?;
            if self.tensors.insert(name, info).is_some() {
                return Err(GgufError::invalid(what, "occurs twice"));
            }
        }
        Ok(())
    }

    fn alignment(&self, bytes: &[u8]) -> Result<u64, GgufError> {
        let key = "general.alignment";
        match self.view(bytes).unsigned(key)? {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(value) if value.is_power_of_two() && (8..=1 << 20).contains(&value) => Ok(value),
            Some(value) => Err(GgufError::invalid(key, format!("{value} is not a power of two from 8 to 1048576"))),
        }
    }
}

/// Checks one tensor's shape, size and place.
fn locate(
    length: usize,
    data: Option<u64>,
    alignment: u64,
    what: &str,
    dims: &[u64],
    dtype: GgmlDType,
    offset: u64,
) -> Result<TensorInfo, GgufError> {
    let too_large = || GgufError::invalid(what, format!("its shape {dims:?} is too large"));
    let mut elements = 1usize;
    let mut shape = Vec::with_capacity(dims.len());
    // The file has the fastest dimension first.
    for dim in dims.iter().rev() {
        let dim = usize::try_from(*dim).map_err(|_| too_large())?;
        if dim == 0 {
            return Err(GgufError::invalid(what, format!("its shape {dims:?} has an empty dimension")));
        }
        elements = elements.checked_mul(dim).ok_or_else(too_large)?;
        shape.push(dim);
    }
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(dtype.block_size()) {
        return Err(GgufError::invalid(what, format!("rows of {columns} values do not divide into {dtype:?} blocks")));
    }
    let size = (elements / dtype.block_size()).checked_mul(dtype.type_size()).ok_or_else(too_large)?;
    if !offset.is_multiple_of(alignment) {
        let fault = format!("its offset {offset} is not a multiple of the alignment {alignment}");
        return Err(GgufError::invalid(what, fault));
    }
    let start = data.and_then(|data| data.checked_add(offset));
    let end = start.and_then(|start| start.checked_add(size as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= length as u64 => {
            Ok(TensorInfo { dtype, shape, bytes: start as usize..end as usize })
        }
        _ => Err(GgufError::Truncated { what: what.into(), at: start.unwrap_or(u64::MAX), length: length as u64 }),
    }
}

/// The weight types that candle knows, by their numbers in a file.
pub(crate) fn weight_type(number: u32) -> Option<GgmlDType> {
    Some(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// A name from the file, fit to be printed.
fn quoted(name: &str) -> String {
    let cut: String = name.chars().take(80).collect();
    format!("{cut:?}")
}

/// A header together with the bytes it describes.
#[derive(Clone, Copy)]
pub struct View<'a> {
    header: &'a Header,
    bytes: &'a [u8],
    file: Option<&'a Mapped>,
}

impl<'a> View<'a> {
    /// The mapped file that the bytes are of, if they are of one.
    pub(crate) fn file(&self) -> Option<&'a Mapped> {
        self.file
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.header.entries.get(key)
    }

    fn wrong(key: &str, entry: &Entry, wanted: &str) -> GgufError {
        GgufError::invalid(format!("metadata {}", quoted(key)), format!("is a {:?}, not {wanted}", entry.kind))
    }

    /// A whole number that is not negative, of any width.
    ///
    /// # Errors
    /// When the value is of another kind; so with the other readers.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let value = integer(entry.kind, &self.bytes[entry.bytes.clone()]).and_then(|n| u64::try_from(n).ok());
        value.ok_or_else(|| Self::wrong(key, entry, "a whole number of 0 or more")).map(Some)
    }

    /// A finite number.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let bytes = &self.bytes[entry.bytes.clone()];
        match real(entry.kind, bytes) {
            Some(value) if value.is_finite() => Ok(Some(value)),
            _ => Err(Self::wrong(key, entry, "a finite number")),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        match (entry.kind, &self.bytes[entry.bytes.clone()]) {
            (Kind::Bool, [value]) => Ok(Some(*value != 0)),
            _ => Err(Self::wrong(key, entry, "a truth value")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// When the value is of another kind or not UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        if entry.kind != Kind::String {
            return Err(Self::wrong(key, entry, "a string"));
        }
        match std::str::from_utf8(&self.bytes[entry.bytes.clone()]) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(GgufError::invalid(format!("metadata {}", quoted(key)), "is not UTF-8")),
        }
    }

    /// An array of texts, borrowed from the file.
    ///
    /// # Errors
    /// When the value is of another kind or not UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let Some((Kind::String, count)) = entry.elements else {
            return Err(Self::wrong(key, entry, "an array of strings"));
        };
        let what = format!("metadata {}", quoted(key));
        let mut reader = Reader { bytes: &self.bytes[..entry.bytes.end], at: entry.bytes.start, kept: 0 };
        let mut texts = Vec::with_capacity(count);
        for i in 0..count {
            let length = reader.count(MAX_STRING, &what)?;
            let range = reader.take(length, &what)?;
            match std::str::from_utf8(&self.bytes[range]) {
                Ok(text) => texts.push(text),
                Err(_) => return Err(GgufError::invalid(what, format!("string {i} is not UTF-8"))),
            }
        }
        Ok(Some(texts))
    }

    /// An array of whole numbers.
    ///
    /// # Errors
    /// When the value is of another kind.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let wrong = || Self::wrong(key, entry, "an array of whole numbers");
        let Some((kind, count)) = entry.elements else { return Err(wrong()) };
        let Some(size) = kind.size().and_then(|size| usize::try_from(size).ok()) else { return Err(wrong()) };
        let mut numbers = Vec::with_capacity(count);
        for bytes in self.bytes[entry.bytes.clone()].chunks_exact(size) {
            numbers.push(integer(kind, bytes).and_then(|n| i64::try_from(n).ok()).ok_or_else(wrong)?);
        }
        Ok(Some(numbers))
    }

    /// An array of finite numbers.
    ///
    /// # Errors
    /// When the value is of another kind, or one of them is not finite.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let wrong = || Self::wrong(key, entry, "an array of finite numbers");
        let Some((kind, count)) = entry.elements else { return Err(wrong()) };
        let Some(size) = kind.size().and_then(|size| usize::try_from(size).ok()) else { return Err(wrong()) };
        let mut numbers = Vec::with_capacity(count);
        for (at, bytes) in self.bytes[entry.bytes.clone()].chunks_exact(size).enumerate() {
            let number = real(kind, bytes).ok_or_else(wrong)?;
            if !number.is_finite() {
                return Err(GgufError::invalid(
                    format!("metadata {}", quoted(key)),
                    format!("number {at} is {number}"),
                ));
            }
            numbers.push(number);
        }
        Ok(Some(numbers))
    }

    /// A tensor and its bytes, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<(&'a TensorInfo, &'a [u8])> {
        let info = self.header.tensors.get(name)?;
        Some((info, &self.bytes[info.bytes.clone()]))
    }

    /// The names of all tensors.
    pub fn tensor_names(&self) -> Vec<&'a str> {
        self.header.tensors.keys().map(String::as_str).collect()
    }

    /// The keys of all metadata.
    pub fn keys(&self) -> Vec<&'a str> {
        self.header.entries.keys().map(String::as_str).collect()
    }
}

fn real(kind: Kind, bytes: &[u8]) -> Option<f32> {
    match kind {
        Kind::F32 => bytes.first_chunk().map(|b| f32::from_le_bytes(*b)),
        Kind::F64 => bytes.first_chunk().map(|b| f64::from_le_bytes(*b) as f32),
        kind => integer(kind, bytes).map(|n| n as f32),
    }
}

fn integer(kind: Kind, bytes: &[u8]) -> Option<i128> {
    Some(match kind {
        Kind::U8 => i128::from(*bytes.first()?),
        Kind::I8 => i128::from(i8::from_le_bytes(*bytes.first_chunk()?)),
        Kind::U16 => i128::from(u16::from_le_bytes(*bytes.first_chunk()?)),
        Kind::I16 => i128::from(i16::from_le_bytes(*bytes.first_chunk()?)),
        Kind::U32 => i128::from(u32::from_le_bytes(*bytes.first_chunk()?)),
        Kind::I32 => i128::from(i32::from_le_bytes(*bytes.first_chunk()?)),
        Kind::U64 => i128::from(u64::from_le_bytes(*bytes.first_chunk()?)),
        Kind::I64 => i128::from(i64::from_le_bytes(*bytes.first_chunk()?)),
        Kind::F32 | Kind::F64 | Kind::Bool | Kind::String | Kind::Array => return None,
    })
}

/// An open file, mapped into memory.
pub struct GgufFile {
    header: Header,
    map: Mapped,
}

impl GgufFile {
    /// Maps the file at `path` and reads its header. Weights are paged in when they are read.
    ///
    /// # Errors
    /// When the file cannot be mapped or its header is not right.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let map = Mapped::open(path).map_err(io)?;
        let header = Header::parse(&map)?;
        Ok(Self { header, map })
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.map.len() as u64
    }

    /// The header and the file's bytes.
    pub fn view(&self) -> View<'_> {
        View { file: Some(&self.map), ..self.header.view(&self.map) }
    }
}

#[cfg(test)]
mod tests;
