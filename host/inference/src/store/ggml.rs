//! Whisper models in the form of whisper.cpp, `ggml-tiny.en.bin`, become safetensors under their published names.
//!
//! The format (whisper.cpp's `models/convert-pt-to-ggml.py`, little-endian) has no offsets: a magic number, eleven sizes,
//! the filters of the spectrogram, the vocabulary, and then tensors until the file ends, each with its sides (fastest
//! first), its type, its name and its data. Types are ggml's, quantized ones among them; what comes out is half
//! precision, so blocks of integers are read as the floats they stand for.
//!
//! The file lies mapped. Every count is checked against what is left of it before anything is kept, and what is kept
//! are slices.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use serde_json::json;

use super::StoreError;
use super::deferred::{Deferred, elements, halves};
use super::whisper::{Hints, Shape, Whisper, heads, published, tokens};
use crate::text::{Mapped, dequantize, weight_type};

const MAGIC: u32 = 0x6767_6d6c;
/// The format's version of quantized blocks is the thousands of the file's type.
const TYPES: u32 = 1000;
const MAX_RANK: usize = 4;
const MAX_NAME: usize = 256;
/// A large model has some 1,300.
const MAX_TENSORS: usize = 1 << 14;
const MAX_WORDS: usize = 1 << 18;

/// Whether the file at `path` begins as these do.
pub(super) fn is_one(path: &Path) -> bool {
    let mut start = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && u32::from_le_bytes(start) == MAGIC
}

/// Makes of the file at `source` the files in `to` that the model was published with.
pub(super) fn whisper(source: &Path, to: &Path) -> Result<(), StoreError> {
    let refuse = |why: String| StoreError::NotAModel { path: source.to_owned(), why };
    let bytes = Mapped::open(source).map_err(StoreError::io("cannot read", source))?;
    let model = read(&bytes).map_err(refuse)?;
    let whisper = model.whisper().map_err(refuse)?;
    let shape = whisper.shape().map_err(refuse)?;
    let tokenizer = model.tokenizer(&shape).map_err(refuse)?;
    let hints = Hints {
        alignment_heads: heads::of(shape.vocabulary, shape.width, shape.layers[1]).map(|heads| json!(heads)),
        suppress: Some(json!(tokens::no_speech(&tokenizer).map_err(refuse)?)),
        suppress_begin: None,
    };
    let path = to.join("tokenizer.json");
    std::fs::write(&path, tokenizer.to_string()).map_err(StoreError::io("cannot write", &path))?;
    whisper.write(to, &hints)?.map_err(refuse)
}

/// Whether the weights in a file are blocks of integers.
pub(super) fn rounded(source: &Path) -> bool {
    let Ok(bytes) = Mapped::open(source) else { return false };
    read(&bytes).is_ok_and(|model| model.tensors.iter().any(|(_, tensor)| is_rounded(tensor.dtype)))
}

/// Whether values of this type are rounded to integers.
pub(super) fn is_rounded(dtype: GgmlDType) -> bool {
    !matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}

struct Model<'a> {
    heads: [usize; 2],
    words: Vec<&'a [u8]>,
    tensors: Vec<(&'a str, Tensor<'a>)>,
}

struct Tensor<'a> {
    dtype: GgmlDType,
    /// Slowest dimension first.
    shape: Vec<usize>,
    data: &'a [u8],
}

/// Takes from the front of a file.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| {
            format!("it ends inside {what}: {count} bytes are to follow, {} do; fetch it again", self.0.len())
        })?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self, what: &str) -> Result<u32, String> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A number that the format has as a signed one, of at most `most`.
    fn count(&mut self, most: usize, what: &str) -> Result<usize, String> {
        let value = self.word(what)?;
        let count = usize::try_from(value).ok().filter(|count| *count <= most);
        count.ok_or_else(|| format!("{what} is {}, not 0 to {most}", value.cast_signed()))
    }
}

fn read(bytes: &[u8]) -> Result<Model<'_>, String> {
    let mut reader = Reader(bytes);
    if reader.word("the magic number")? != MAGIC {
        return Err("it is no ggml file of whisper.cpp".to_owned());
    }
    // Vocabulary, then positions, width, heads and layers of the encoder and of the decoder, then bands and type. Only
    // the heads cannot be read off the tensors.
    let mut sizes = [0; 11];
    for size in &mut sizes {
        *size = reader.word("the sizes of the model")?;
    }
    let [heads, text_heads] = [sizes[3], sizes[7]].map(|heads| usize::try_from(heads).unwrap_or(usize::MAX));
    if sizes[10] / TYPES > 2 {
        return Err(format!("its blocks are of version {}; up to 2 are known", sizes[10] / TYPES));
    }
    let (bands, bins) = (reader.count(1 << 10, "the number of bands")?, reader.count(1 << 16, "the number of bins")?);
    reader.take(bands * bins * 4, "the filters")?;
    let count = reader.count(MAX_WORDS, "the number of words")?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = reader.count(1 << 16, "the length of a word")?;
        words.push(reader.take(length, "a word")?);
    }
    let mut tensors = Vec::new();
    while !reader.0.is_empty() {
        if tensors.len() == MAX_TENSORS {
            return Err(format!("it has more than {MAX_TENSORS} tensors"));
        }
        tensors.push(tensor(&mut reader)?);
    }
    Ok(Model { heads: [heads, text_heads], words, tensors })
}

fn tensor<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, Tensor<'a>), String> {
    let rank = reader.count(MAX_RANK, "the number of a tensor's sides")?;
    let length = reader.count(MAX_NAME, "the length of a tensor's name")?;
    let number = reader.word("a tensor's type")?;
    let mut shape = Vec::with_capacity(rank);
    for _ in 0..rank {
        shape.push(reader.count(i32::MAX as usize, "a side of a tensor")?);
    }
    shape.reverse();
    let name = reader.take(length, "a tensor's name")?;
    let name = std::str::from_utf8(name).map_err(|_| "a tensor's name is no text".to_owned())?;
    let dtype =
        weight_type(number).ok_or_else(|| format!("tensor {name:.80} has the type {number}, which is not known"))?;
    let columns = shape.last().copied().unwrap_or(1);
    let blocks = elements(&shape).filter(|_| columns.is_multiple_of(dtype.block_size()));
    let size =
        blocks.map(|values| values / dtype.block_size()).and_then(|blocks| blocks.checked_mul(dtype.type_size()));
    let size =
        size.ok_or_else(|| format!("tensor {name:.80} has the shape {shape:?}, which {dtype:?} does not give"))?;
    let data = reader.take(size, &format!("tensor {name:.80}"))?;
    Ok((name, Tensor { dtype, shape, data }))
}

impl<'a> Model<'a> {
    fn whisper(&self) -> Result<Whisper<'a>, String> {
        let mut named = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            let to = published(name).ok_or_else(|| format!("tensor {name:.80} is none of Whisper's"))?;
            let tensor = half_precision(tensor.dtype, &tensor.shape, tensor.data)
                .ok_or_else(|| format!("tensor {name:.80} is too large"))?;
            if named.insert(to, tensor).is_some() {
                return Err(format!("tensor {name:.80} stands twice"));
            }
        }
        Ok(Whisper { tensors: named, heads: self.heads })
    }

    fn tokenizer(&self, shape: &Shape) -> Result<serde_json::Value, String> {
        // Some converters list the token after the words too.
        let words = self.words.get(..shape.end()).unwrap_or(&self.words);
        let languages = shape.languages(words.len());
        let languages = languages.ok_or_else(|| {
            format!("its {} words leave no room for timestamps among {} tokens", words.len(), shape.vocabulary)
        })?;
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
        tokens::tokenizer(&words, &tokens::special(languages))
    }
}

/// A tensor of ggml's in half precision; none where it is too large to be counted. `data` has as many bytes as `dtype` and
/// `shape` give.
pub(super) fn half_precision<'a>(dtype: GgmlDType, shape: &[usize], data: &'a [u8]) -> Option<Deferred<'a>> {
    let sides = shape.to_vec();
    Deferred::new(Dtype::F16, shape, move || match dtype {
        GgmlDType::F16 => Cow::Borrowed(data),
        // Sizes were checked; a fault here would be found in the size of the file that is written.
        _ => halves(dequantize(dtype, &sides, data).unwrap_or_default().into_iter()),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with these tensors: name, type, sides (slowest first) and data.
    fn file(vocabulary: &[&[u8]], tensors: &[(&str, u32, &[u32], Vec<u8>)]) -> Vec<u8> {
        let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut bytes = words(&[MAGIC, 300, 1500, 4, 2, 1, 448, 4, 2, 1, 80, 1, 1, 2]);
        bytes.extend([0; 8]);
        bytes.extend(words(&[vocabulary.len() as u32]));
        for word in vocabulary {
            bytes.extend(words(&[word.len() as u32]));
            bytes.extend(*word);
        }
        for (name, kind, sides, data) in tensors {
            bytes.extend(words(&[sides.len() as u32, name.len() as u32, *kind]));
            sides.iter().rev().for_each(|side| bytes.extend(side.to_le_bytes()));
            bytes.extend(name.as_bytes());
            bytes.extend(data);
        }
        bytes
    }

    fn small() -> Vec<u8> {
        let block: Vec<u8> = [&[0, 0x38][..], &[2; 32]].concat();
        file(
            &[b"a", b"bc"],
            &[
                ("decoder.ln.weight", 0, &[2], [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect()),
                ("decoder.token_embedding.weight", 8, &[1, 32], block),
                ("encoder.conv1.bias", 1, &[2, 1], vec![0, 0x3c, 0, 0x40]),
            ],
        )
    }

    #[test]
    fn tensors_of_every_type_become_half_precision() {
        use safetensors::tensor::View as _;
        let bytes = small();
        let model = read(&bytes).unwrap();
        assert_eq!((model.words.as_slice(), model.heads), (&[&b"a"[..], b"bc"][..], [2, 2]));
        let whisper = model.whisper().unwrap();
        let tensor = |name: &str| &whisper.tensors[name];
        assert_eq!(*tensor("model.decoder.layer_norm.weight").data(), [0, 0x3c, 0, 0x40]);
        assert_eq!(*tensor("model.encoder.conv1.bias").data(), [0, 0x3c, 0, 0x40]);
        let table = tensor("model.decoder.embed_tokens.weight");
        assert_eq!((table.dims(), &*table.data()), (&[1, 32][..], &[0, 0x3c].repeat(32)[..]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fault = |tensors: &[(&str, u32, &[u32], Vec<u8>)]| {
            let bytes = file(&[], tensors);
            read(&bytes).and_then(|model| model.whisper().map(|_| ())).unwrap_err()
        };
        assert!(fault(&[("x", 0, &[1], vec![0; 4])]).contains("tensor x is none"));
        assert!(fault(&[("decoder.ln.bias", 99, &[1], vec![])]).contains("type 99"));
        assert!(fault(&[("decoder.ln.bias", 8, &[3], vec![0; 34])]).contains("[3]"));
        assert!(fault(&[("decoder.ln.bias", 0, &[1 << 30, 1 << 30, 1 << 30], vec![])]).contains("decoder.ln.bias"));
        let twice = ("decoder.ln.bias", 0, &[1][..], vec![0; 4]);
        assert!(fault(&[twice.clone(), twice]).contains("twice"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ggml-x.bin");
        std::fs::write(&path, small()).unwrap();
        assert!(is_one(&path));
        let error = whisper(&path, folder.path()).unwrap_err().to_string();
        assert!(error.contains("ggml-x.bin") && error.contains("model.encoder.conv1.weight"), "{error}");
    }

    proptest! {
        #[test]
        fn broken_files_never_panic(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
            let mut bytes = small();
            let end = bytes.len().saturating_sub(cut / 2);
            let whole = cut < 2 && at >= bytes.len();
            bytes.truncate(end);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let read = read(&bytes).and_then(|model| model.whisper().map(|_| ()));
            prop_assert!(!whole || read.is_ok());
        }
    }
}
