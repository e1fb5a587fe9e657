//! A Whisper model of CTranslate2 becomes safetensors under the names it was published with.
//!
//! The format (CTranslate2's `model_spec.py`, binary version 6) is a list of named variables: little-endian lengths, a
//! rank, that many dimensions, a type and the row-major data; then a list of second names for some of them. It fuses
//! query, key and value into one matrix, stacked by rows, with a bias of zero for the keys, which Whisper has none of.
//! Weights are floats, or integers with a variable `…_scale` that they were multiplied with: one value for each row
//! (int8), or one for all (int16). What comes out is half precision, so integers are read as the floats they stand for.
//! Everything read is bounded by the file: a variable is a slice of it, never a copy that its header asks for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;

use super::deferred::{Deferred, elements, halves};
use super::whisper::{Hints, Whisper, heads, tokens};
use super::{StoreError, read_config, read_text};
use crate::text::Mapped;

/// The one version of the format that is written since 2021.
const VERSION: u32 = 6;
const MAX_RANK: usize = 8;
/// A large model has some 1,500, each with a few bytes at least that take a hundred here.
const MAX_VARIABLES: u32 = 1 << 16;
/// A list of 52 thousand tokens has about a megabyte.
const VOCABULARY_BYTES: u64 = 16 << 20;

/// Whether the file at `path` begins as CTranslate2's do.
pub(super) fn is_one(path: &Path) -> bool {
    let mut start = [0; 64];
    let count = File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let mut reader = Reader(&start[..count]);
    reader.word().is_ok_and(|version| version <= 64) && reader.name().is_ok_and(|spec| spec.ends_with("Spec"))
}

/// Makes of `model.bin`, `config.json` and, where there is no `tokenizer.json`, the `vocabulary.json` or
/// `vocabulary.txt` in `from` the files in `to` that the model was published with. The two may be one folder.
pub(super) fn whisper(from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = from.join("model.bin");
    let refuse = |why: String| StoreError::NotAModel { path: source.clone(), why };
    let bytes = Mapped::open(&source).map_err(StoreError::io("cannot read", &source))?;
    let model = read(&bytes).map_err(refuse)?;
    let whisper = model.whisper().map_err(refuse)?;
    let shape = whisper.shape().map_err(refuse)?;
    let said = read_config(from)?;
    let known = || heads::of(shape.vocabulary, shape.width, shape.layers[1]).map(|heads| serde_json::json!(heads));
    let hints = Hints {
        alignment_heads: said.get("alignment_heads").cloned().or_else(known),
        suppress: said.get("suppress_ids").cloned(),
        suppress_begin: said.get("suppress_ids_begin").cloned(),
    };
    if !from.join("tokenizer.json").exists() {
        let tokenizer = tokenizer(from, shape.vocabulary)?;
        let path = to.join("tokenizer.json");
        std::fs::write(&path, tokenizer.to_string()).map_err(StoreError::io("cannot write", &path))?;
    }
    whisper.write(to, &hints)?.map_err(refuse)
}

/// A `tokenizer.json` out of the list of all tokens beside the model.
fn tokenizer(folder: &Path, vocabulary: usize) -> Result<Value, StoreError> {
    let (json, text) = (folder.join("vocabulary.json"), folder.join("vocabulary.txt"));
    let path = if json.exists() { &json } else { &text };
    let refuse = |why: String| StoreError::NotAModel { path: path.clone(), why };
    if !path.exists() {
        let why =
            "it has neither tokenizer.json nor vocabulary.json nor vocabulary.txt; put one of them beside model.bin";
        return Err(StoreError::NotAModel { path: folder.to_owned(), why: why.to_owned() });
    }
    let bytes = read_text(path, VOCABULARY_BYTES)?;
    let list: Vec<String> = if path == &json {
        serde_json::from_slice(&bytes).map_err(|error| refuse(format!("it is no list of tokens: {error}")))?
    } else {
        let text = String::from_utf8(bytes).map_err(|_| refuse("it is no text".to_owned()))?;
        text.lines().map(str::to_owned).collect()
    };
    if list.len() > vocabulary {
        return Err(refuse(format!("it has {} tokens, the model {vocabulary}", list.len())));
    }
    tokens::split(&list).and_then(|(words, special)| tokens::tokenizer(&words, &special)).map_err(refuse)
}

/// Whether the weights in a folder are integers.
pub(super) fn rounded(folder: &Path) -> bool {
    let Ok(bytes) = Mapped::open(&folder.join("model.bin")) else { return false };
    let integer = |variable: &Variable<'_>| variable.rank == 2 && matches!(variable.kind, Kind::I8 | Kind::I16);
    read(&bytes).is_ok_and(|model| model.variables.values().any(integer))
}

/// The variables of a model by name.
struct Model<'a> {
    variables: BTreeMap<&'a str, Variable<'a>>,
}

#[derive(Clone, Copy)]
struct Variable<'a> {
    rank: usize,
    sides: [usize; MAX_RANK],
    kind: Kind,
    data: &'a [u8],
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    F32,
    I8,
    I16,
    I32,
    F16,
    Bf16,
}

impl Kind {
    fn width(self) -> usize {
        match self {
            Kind::I8 => 1,
            Kind::I16 | Kind::F16 | Kind::Bf16 => 2,
            Kind::F32 | Kind::I32 => 4,
        }
    }
}

/// Takes from the front of a file.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends in the midst of a variable")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// How many variables or names follow.
    fn count(&mut self) -> Result<u32, String> {
        let count = self.word()?;
        if count > MAX_VARIABLES {
            return Err(format!("it says that it has {count} variables; {MAX_VARIABLES} are accepted"));
        }
        Ok(count)
    }

    /// A length of two bytes, then as many, the last one zero.
    fn name(&mut self) -> Result<&'a str, String> {
        let length = self.take(2)?;
        let text = self.take(usize::from(u16::from_le_bytes([length[0], length[1]])))?;
        let text = text.strip_suffix(&[0]).ok_or("it has a name without an end")?;
        std::str::from_utf8(text).map_err(|_| "it has a name that is no text".to_owned())
    }
}

fn read(bytes: &[u8]) -> Result<Model<'_>, String> {
    let mut reader = Reader(bytes);
    let version = reader.word()?;
    if version != VERSION {
        return Err(format!("it says version {version}; {VERSION} of CTranslate2's format is known"));
    }
    let spec = reader.name()?;
    if spec != "WhisperSpec" {
        return Err(format!("it is a {spec:.40}, not a WhisperSpec"));
    }
    let _revision = reader.word()?;
    let count = reader.count()?;
    let mut variables = BTreeMap::new();
    for _ in 0..count {
        let name = reader.name()?;
        let variable = variable(&mut reader).map_err(|why| format!("variable {name:.80}: {why}"))?;
        variables.insert(name, variable);
    }
    // A second name is a pair of texts: itself, and the variable's.
    let count = reader.count()?;
    for _ in 0..count {
        let (name, of) = (reader.name()?, reader.name()?);
        let variable = *variables.get(of).ok_or_else(|| format!("{name:.80} is to be {of:.80}, which is not there"))?;
        variables.insert(name, variable);
    }
    Ok(Model { variables })
}

fn variable<'a>(reader: &mut Reader<'a>) -> Result<Variable<'a>, String> {
    let rank = usize::from(reader.byte()?);
    if rank > MAX_RANK {
        return Err(format!("it has {rank} dimensions"));
    }
    let mut sides = [1; MAX_RANK];
    for side in &mut sides[..rank] {
        *side = reader.word()? as usize;
    }
    let kind = match reader.byte()? {
        0 => Kind::F32,
        1 => Kind::I8,
        2 => Kind::I16,
        3 => Kind::I32,
        4 => Kind::F16,
        5 => Kind::Bf16,
        other => return Err(format!("it has the unknown type {other}")),
    };
    let data = reader.word()? as usize;
    let data = reader.take(data)?;
    let variable = Variable { rank, sides, kind, data };
    let shape = variable.shape();
    if elements(shape).and_then(|values| values.checked_mul(kind.width())) != Some(data.len()) {
        return Err(format!("it has {} bytes, which its shape {shape:?} does not give", data.len()));
    }
    Ok(variable)
}

impl<'a> Variable<'a> {
    fn shape(&self) -> &[usize] {
        &self.sides[..self.rank]
    }

    /// Some of its values, in order.
    fn values(self, range: Range<usize>) -> Box<dyn Iterator<Item = f32> + 'a> {
        let width = self.kind.width();
        let data = self.data.get(range.start * width..range.end * width).unwrap_or_default();
        let pairs = data.as_chunks::<2>().0.iter();
        match self.kind {
            Kind::I8 => Box::new(data.iter().map(|byte| f32::from(byte.cast_signed()))),
            Kind::I16 => Box::new(pairs.map(|two| f32::from(i16::from_le_bytes(*two)))),
            Kind::F16 => Box::new(pairs.map(|two| f16::from_le_bytes(*two).to_f32())),
            Kind::Bf16 => Box::new(pairs.map(|two| bf16::from_le_bytes(*two).to_f32())),
            Kind::I32 => Box::new(data.as_chunks::<4>().0.iter().map(|four| i32::from_le_bytes(*four) as f32)),
            Kind::F32 => Box::new(data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four))),
        }
    }
}

/// A variable that stands for floats.
struct Floats<'a> {
    variable: Variable<'a>,
    /// What each value of a row is divided by: nothing where there are none, one for all, or one for each row.
    scales: Vec<f32>,
}

impl<'a> Floats<'a> {
    fn rows(&self) -> usize {
        self.variable.shape().first().copied().unwrap_or(1)
    }

    /// The values of `rows`, in half precision.
    fn halves(&self, rows: Range<usize>) -> Cow<'a, [u8]> {
        let row = elements(self.variable.shape()).unwrap_or(0) / self.rows().max(1);
        let range = rows.start * row..rows.end * row;
        if self.variable.kind == Kind::F16 {
            return Cow::Borrowed(self.variable.data.get(range.start * 2..range.end * 2).unwrap_or_default());
        }
        let values = self.variable.values(range);
        if self.scales.is_empty() {
            return halves(values);
        }
        let scale = |at: usize| self.scales.get(rows.start + at / row.max(1)).or(self.scales.first()).copied();
        halves(values.enumerate().map(|(at, value)| value / scale(at).unwrap_or(1.0)))
    }

    /// The tensor that `rows` are, which have `shape`.
    fn tensor(self, rows: Range<usize>, shape: &[usize]) -> Result<Deferred<'a>, String> {
        Deferred::new(Dtype::F16, shape, move || self.halves(rows.clone())).ok_or_else(|| "it is too large".to_owned())
    }
}

impl<'a> Model<'a> {
    fn get(&self, name: &str) -> Result<&Variable<'a>, String> {
        self.variables.get(name).ok_or_else(|| format!("there is no variable {name}"))
    }

    /// A whole number that is a variable.
    fn number(&self, name: &str) -> Result<usize, String> {
        let variable = self.get(name)?;
        let value = match (variable.kind, variable.data) {
            (Kind::I8, [a]) => i64::from(i8::from_le_bytes([*a])),
            (Kind::I16, [a, b]) => i64::from(i16::from_le_bytes([*a, *b])),
            (Kind::I32, [a, b, c, d]) => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
            _ => return Err(format!("variable {name} is no whole number")),
        };
        usize::try_from(value).map_err(|_| format!("variable {name} is {value}"))
    }

    /// A variable that stands for floats, with its scales where it is integers.
    fn floats(&self, name: &str) -> Result<Floats<'a>, String> {
        let variable = *self.get(name)?;
        let scales = match variable.kind {
            Kind::F32 | Kind::F16 | Kind::Bf16 => Vec::new(),
            Kind::I8 | Kind::I16 => {
                let scale = format!("{name}_scale");
                let found = self.get(&scale)?;
                let count = elements(found.shape()).unwrap_or(0);
                let rows = variable.shape().first().copied().unwrap_or(1);
                if count != 1 && count != rows || matches!(found.kind, Kind::I8 | Kind::I16 | Kind::I32) {
                    return Err(format!(
                        "variable {scale} has {count} values, not one float or one for each of {rows} rows"
                    ));
                }
                let scales: Vec<f32> = found.values(0..count).collect();
                if scales.iter().any(|scale| !scale.is_finite() || *scale == 0.0) {
                    return Err(format!("variable {scale} has values that nothing can be divided by"));
                }
                scales
            }
            Kind::I32 => return Err(format!("variable {name} has 32-bit integers; floats, int8 and int16 are known")),
        };
        Ok(Floats { variable, scales })
    }

    /// The model under its published names.
    fn whisper(&self) -> Result<Whisper<'a>, String> {
        let mut naming = Naming { model: self, tensors: BTreeMap::new() };
        naming.all()?;
        let heads = |side: &str| self.number(&format!("{side}/num_heads"));
        Ok(Whisper { tensors: naming.tensors, heads: [heads("encoder")?, heads("decoder")?] })
    }
}

/// Tensors under their published names, and what is still to be named.
struct Naming<'m, 'a> {
    model: &'m Model<'a>,
    tensors: BTreeMap<String, Deferred<'a>>,
}

impl Naming<'_, '_> {
    fn put(&mut self, from: &str, to: &str) -> Result<(), String> {
        let floats = self.model.floats(from)?;
        let (rows, shape) = (0..floats.rows(), floats.variable.shape().to_vec());
        let tensor = floats.tensor(rows, &shape).map_err(|why| format!("variable {from}: {why}"))?;
        self.tensors.insert(to.to_owned(), tensor);
        Ok(())
    }

    fn norm(&mut self, from: &str, to: &str) -> Result<(), String> {
        self.put(&format!("{from}/gamma"), &format!("{to}.weight"))?;
        self.put(&format!("{from}/beta"), &format!("{to}.bias"))
    }

    fn linear(&mut self, from: &str, to: &str) -> Result<(), String> {
        self.put(&format!("{from}/weight"), &format!("{to}.weight"))?;
        self.put(&format!("{from}/bias"), &format!("{to}.bias"))
    }

    /// Cuts a fused matrix into `parts` of as many rows each. The keys' bias, which is zero, has no published name.
    fn split(&mut self, from: &str, to: &str, parts: &[&str]) -> Result<(), String> {
        for end in ["weight", "bias"] {
            let name = format!("{from}/{end}");
            let mut shape = self.model.get(&name)?.shape().to_vec();
            let rows = match shape.first_mut() {
                Some(rows) if *rows > 0 && rows.is_multiple_of(parts.len()) => {
                    *rows /= parts.len();
                    *rows
                }
                _ => return Err(format!("variable {name} cannot be cut into {} parts", parts.len())),
            };
            for (at, part) in parts.iter().enumerate() {
                let (floats, rows) = (self.model.floats(&name)?, at * rows..(at + 1) * rows);
                if *part == "k_proj" && end == "bias" {
                    if floats.halves(rows).as_chunks::<2>().0.iter().any(|two| f16::from_le_bytes(*two).to_f32() != 0.0)
                    {
                        return Err(format!("variable {name} has a bias for keys, which Whisper has none of"));
                    }
                    continue;
                }
                let tensor = floats.tensor(rows, &shape).map_err(|why| format!("variable {name}: {why}"))?;
                self.tensors.insert(format!("{to}.{part}.{end}"), tensor);
            }
        }
        Ok(())
    }

    fn all(&mut self) -> Result<(), String> {
        for side in ["encoder", "decoder"] {
            let positions = format!("{side}/position_encodings/encodings");
            self.put(&positions, &format!("model.{side}.embed_positions.weight"))?;
            let has = |layer: &usize| {
                self.model.variables.contains_key(&*format!("{side}/layer_{layer}/ffn/linear_0/weight"))
            };
            let layers = (0..).take_while(has).count();
            for layer in 0..layers {
                self.layer(side, layer)?;
            }
            self.norm(&format!("{side}/layer_norm"), &format!("model.{side}.layer_norm"))?;
        }
        for convolution in ["conv1", "conv2"] {
            self.linear(&format!("encoder/{convolution}"), &format!("model.encoder.{convolution}"))?;
        }
        self.put("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
    }

    fn layer(&mut self, side: &str, layer: usize) -> Result<(), String> {
        let (from, to) = (format!("{side}/layer_{layer}"), format!("model.{side}.layers.{layer}"));
        let (own, own_to) = (format!("{from}/self_attention"), format!("{to}.self_attn"));
        self.norm(&format!("{own}/layer_norm"), &format!("{own_to}_layer_norm"))?;
        self.split(&format!("{own}/linear_0"), &own_to, &["q_proj", "k_proj", "v_proj"])?;
        self.linear(&format!("{own}/linear_1"), &format!("{own_to}.out_proj"))?;
        if side == "decoder" {
            let (cross, cross_to) = (format!("{from}/attention"), format!("{to}.encoder_attn"));
            self.norm(&format!("{cross}/layer_norm"), &format!("{cross_to}_layer_norm"))?;
            self.linear(&format!("{cross}/linear_0"), &format!("{cross_to}.q_proj"))?;
            self.split(&format!("{cross}/linear_1"), &cross_to, &["k_proj", "v_proj"])?;
            self.linear(&format!("{cross}/linear_2"), &format!("{cross_to}.out_proj"))?;
        }
        self.norm(&format!("{from}/ffn/layer_norm"), &format!("{to}.final_layer_norm"))?;
        self.linear(&format!("{from}/ffn/linear_0"), &format!("{to}.fc1"))?;
        self.linear(&format!("{from}/ffn/linear_1"), &format!("{to}.fc2"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(name: &str) -> Vec<u8> {
        let length = (name.len() + 1) as u16;
        [&length.to_le_bytes()[..], name.as_bytes(), &[0]].concat()
    }

    fn variable_of(name: &str, shape: &[u32], kind: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = text(name);
        bytes.push(shape.len() as u8);
        shape.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
        bytes.push(kind);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn file_of(variables: &[Vec<u8>], aliases: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = [&6_u32.to_le_bytes()[..], &text("WhisperSpec"), &3_u32.to_le_bytes()].concat();
        bytes.extend((variables.len() as u32).to_le_bytes());
        bytes.extend(variables.concat());
        bytes.extend((aliases.len() as u32).to_le_bytes());
        aliases.iter().for_each(|(name, of)| bytes.extend([text(name), text(of)].concat()));
        bytes
    }

    /// A file of one variable.
    fn file(shape: &[u32], kind: u8, data: &[u8]) -> Vec<u8> {
        file_of(&[variable_of("x", shape, kind, data)], &[])
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn all(bytes: &[u8], name: &str) -> Result<Vec<u8>, String> {
        let floats = read(bytes)?.floats(name)?;
        Ok(floats.halves(0..floats.rows()).into_owned())
    }

    #[test]
    fn variables_are_read_and_cut_files_are_refused() {
        let whole = file_of(&[variable_of("x", &[1, 2], 4, &[0, 0x3c, 0, 0x40])], &[("y", "x")]);
        assert_eq!(read(&whole).unwrap().get("y").unwrap().shape(), [1, 2]);
        assert_eq!(all(&whole, "y"), Ok(vec![0, 0x3c, 0, 0x40]));
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(read(&file_of(&[], &[("y", "x")])).is_err());
        let mut many = file_of(&[], &[]);
        let at = many.len() - 8;
        many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&many).err().unwrap().contains("4294967295 variables"));
    }

    #[test]
    fn what_is_written_is_half_precision_whatever_was_read() {
        let expected = Ok(vec![0, 0x3c, 0, 0xc0]);
        assert_eq!(all(&file(&[2], 0, &floats(&[1.0, -2.0])), "x"), expected);
        let brain: Vec<u8> = [1.0_f32, -2.0].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        assert_eq!(all(&file(&[2], 5, &brain), "x"), expected);
        let scaled = |kind, data: &[u8], scales: &[f32]| {
            let scale = variable_of("x_scale", &[scales.len() as u32], 0, &floats(scales));
            all(&file_of(&[variable_of("x", &[2, 1], kind, data), scale], &[]), "x")
        };
        assert_eq!(scaled(1, &[127, 128], &[127.0, 64.0]), expected, "a scale for each row");
        assert_eq!(scaled(2, &[0, 4, 0, 0xf8], &[1024.0]), expected, "one scale for all");
        assert!(scaled(1, &[127, 128], &[127.0, 0.0]).unwrap_err().contains("x_scale"));
        assert!(scaled(1, &[127, 128], &[1.0; 3]).unwrap_err().contains("x_scale"));
        assert!(all(&file(&[2], 1, &[1, 2]), "x").unwrap_err().contains("x_scale"));
    }

    #[test]
    fn shapes_that_lie_are_refused() {
        for (shape, kind) in [(&[3_u32][..], 4), (&[u32::MAX, u32::MAX, u32::MAX], 4), (&[2], 9), (&[1; 9], 4)] {
            assert!(read(&file(shape, kind, &[0; 4])).is_err(), "{shape:?} {kind}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        assert!(!is_one(&path));
        std::fs::write(&path, file(&[2], 0, &floats(&[1.0, 2.0]))).unwrap();
        assert!(is_one(&path));
        let error = whisper(folder.path(), folder.path()).unwrap_err().to_string();
        assert!(error.contains("model.bin") && error.contains("encoder/position_encodings/encodings"), "{error}");
    }

    proptest! {
        #[test]
        fn broken_files_never_panic(cut in 0_usize..200, at in 0_usize..200, byte: u8) {
            let scale = variable_of("x_scale", &[2], 0, &floats(&[127.0, 64.0]));
            let mut bytes = file_of(&[variable_of("x", &[2, 1], 1, &[127, 128]), scale], &[("y", "x")]);
            bytes.truncate(bytes.len().saturating_sub(cut / 2));
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = all(&bytes, "x");
            let _ = read(&bytes).and_then(|model| model.whisper().map(|_| ()));
        }
    }
}
