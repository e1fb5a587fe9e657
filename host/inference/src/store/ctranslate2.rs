//! A Whisper model of CTranslate2 becomes safetensors under the names it was published with.
//!
//! The format (CTranslate2's `model_spec.py`, binary version 6) is a list of named variables: little-endian lengths, a
//! rank, that many dimensions, a type and the row-major data; then a list of second names for some of them. It fuses
//! query, key and value into one matrix, stacked by rows, with a bias of zero for the keys, which Whisper has none of.
//! Everything read is bounded by the file: a variable is a slice of it, never a copy that its header asks for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::convert::{self, Stored};
use super::{StoreError, read_config, read_text};

/// The largest Whisper model has 3 GB in half precision.
const MODEL_BYTES: u64 = 4 << 30;
/// The one version of the format that is written since 2021.
const VERSION: u32 = 6;
const MAX_RANK: usize = 8;
/// Tokens of the models that know English only; the others have more.
const ENGLISH_VOCABULARY: usize = 51_864;

/// Replaces `model.bin` and CTranslate2's own `config.json` in `folder` by `model.safetensors`, `config.json` and
/// `generation_config.json` as the model was published.
pub(super) fn whisper(folder: &Path) -> Result<(), StoreError> {
    let source = folder.join("model.bin");
    let bytes = read_text(&source, MODEL_BYTES)?;
    let hints = read_config(folder)?;
    let refuse = |why: String| StoreError::NotAModel { path: source.clone(), why };
    let model = read(&bytes).map_err(refuse)?;
    let (tensors, layers) = tensors(&model).map_err(refuse)?;
    let shape = Shape::of(&model, layers).map_err(refuse)?;
    let serialized = convert::serialize(tensors).map_err(|error| refuse(error.to_string()))?;
    let write = |name: &str, data: Vec<u8>| {
        let path = folder.join(name);
        fs::write(&path, data).map_err(StoreError::io("cannot write", &path))
    };
    write("model.safetensors", serialized)?;
    write("config.json", pretty(&shape.config(&hints)))?;
    write("generation_config.json", pretty(&shape.generation(&hints)))?;
    fs::remove_file(&source).map_err(StoreError::io("cannot remove", &source))
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The variables of a model by name.
struct Model<'a> {
    variables: BTreeMap<&'a str, Variable<'a>>,
}

struct Variable<'a> {
    shape: Vec<usize>,
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
    let count = reader.word()?;
    let mut variables = BTreeMap::new();
    for _ in 0..count {
        let name = reader.name()?;
        let variable = variable(&mut reader).map_err(|why| format!("variable {name:.80}: {why}"))?;
        variables.insert(name, variable);
    }
    Ok(Model { variables })
}

fn variable<'a>(reader: &mut Reader<'a>) -> Result<Variable<'a>, String> {
    let rank = usize::from(reader.byte()?);
    if rank > MAX_RANK {
        return Err(format!("it has {rank} dimensions"));
    }
    let mut shape = Vec::with_capacity(rank);
    for _ in 0..rank {
        shape.push(reader.word()? as usize);
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
    let values = shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
    if values.and_then(|values| values.checked_mul(kind.width())) != Some(data.len()) {
        return Err(format!("it has {} bytes, which its shape {shape:?} does not give", data.len()));
    }
    Ok(Variable { shape, kind, data })
}

impl Variable<'_> {
    /// The values in half precision, little-endian.
    fn halves(&self) -> Result<Vec<u8>, String> {
        let pairs = || self.data.as_chunks::<2>().0.iter();
        Ok(match self.kind {
            Kind::F16 => self.data.to_vec(),
            Kind::Bf16 => {
                pairs().flat_map(|two| f16::from_f32(bf16::from_le_bytes(*two).to_f32()).to_le_bytes()).collect()
            }
            Kind::F32 => {
                let values = self.data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
                values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
            }
            Kind::I8 | Kind::I16 | Kind::I32 => return Err("it is quantized; float weights are known".to_owned()),
        })
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

    /// How many sides the variable has, which must be `N`.
    fn sides<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let shape = &self.get(name)?.shape;
        <[usize; N]>::try_from(shape.as_slice()).map_err(|_| format!("variable {name} has the shape {shape:?}"))
    }
}

/// Tensors under their published names, and what is still to be named.
struct Naming<'m, 'a> {
    model: &'m Model<'a>,
    tensors: BTreeMap<String, Stored>,
}

impl Naming<'_, '_> {
    fn put(&mut self, from: &str, to: &str) -> Result<(), String> {
        let variable = self.model.get(from)?;
        let data = variable.halves().map_err(|why| format!("variable {from}: {why}"))?;
        self.tensors.insert(to.to_owned(), Stored { dtype: Dtype::F16, shape: variable.shape.clone(), data });
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
            let variable = self.model.get(&name)?;
            let data = variable.halves().map_err(|why| format!("variable {name}: {why}"))?;
            let mut shape = variable.shape.clone();
            match shape.first_mut() {
                Some(rows) if *rows > 0 && rows.is_multiple_of(parts.len()) => *rows /= parts.len(),
                _ => return Err(format!("variable {name} cannot be cut into {} parts", parts.len())),
            }
            for (part, data) in parts.iter().zip(data.chunks(data.len() / parts.len())) {
                if *part == "k_proj" && end == "bias" {
                    if data.as_chunks::<2>().0.iter().any(|two| f16::from_le_bytes(*two).to_f32() != 0.0) {
                        return Err(format!("variable {name} has a bias for keys, which Whisper has none of"));
                    }
                    continue;
                }
                let stored = Stored { dtype: Dtype::F16, shape: shape.clone(), data: data.to_vec() };
                self.tensors.insert(format!("{to}.{part}.{end}"), stored);
            }
        }
        Ok(())
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

/// The published tensors, and the number of layers of encoder and decoder.
fn tensors(model: &Model<'_>) -> Result<(BTreeMap<String, Stored>, [usize; 2]), String> {
    let mut naming = Naming { model, tensors: BTreeMap::new() };
    let mut layers = [0; 2];
    for (side, count) in ["encoder", "decoder"].into_iter().zip(&mut layers) {
        let positions = format!("{side}/position_encodings/encodings");
        naming.put(&positions, &format!("model.{side}.embed_positions.weight"))?;
        while model.variables.contains_key(format!("{side}/layer_{count}/ffn/linear_0/weight").as_str()) {
            naming.layer(side, *count)?;
            *count += 1;
        }
        naming.norm(&format!("{side}/layer_norm"), &format!("model.{side}.layer_norm"))?;
    }
    for convolution in ["conv1", "conv2"] {
        naming.linear(&format!("encoder/{convolution}"), &format!("model.encoder.{convolution}"))?;
    }
    naming.put("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")?;
    Ok((naming.tensors, layers))
}

/// What `config.json` says of a model, read off its tensors.
struct Shape {
    vocabulary: usize,
    width: usize,
    mels: usize,
    layers: [usize; 2],
    heads: [usize; 2],
    intermediate: [usize; 2],
    positions: [usize; 2],
}

impl Shape {
    fn of(model: &Model<'_>, layers: [usize; 2]) -> Result<Shape, String> {
        let [vocabulary, width] = model.sides("decoder/embeddings/weight")?;
        let [_, mels, _] = model.sides("encoder/conv1/weight")?;
        let both = |get: &dyn Fn(&str) -> Result<usize, String>| Ok::<_, String>([get("encoder")?, get("decoder")?]);
        Ok(Shape {
            vocabulary,
            width,
            mels,
            layers,
            heads: both(&|side| model.number(&format!("{side}/num_heads")))?,
            intermediate: both(&|side| Ok(model.sides::<2>(&format!("{side}/layer_0/ffn/linear_0/weight"))?[0]))?,
            positions: both(&|side| Ok(model.sides::<2>(&format!("{side}/position_encodings/encodings"))?[0]))?,
        })
    }

    fn english(&self) -> bool {
        self.vocabulary == ENGLISH_VOCABULARY
    }

    /// The token that ends a text, after which the special ones come.
    fn end(&self) -> usize {
        if self.english() { 50_256 } else { 50_257 }
    }

    fn config(&self, hints: &Value) -> Value {
        let end = self.end();
        json!({
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "is_encoder_decoder": true,
            "activation_function": "gelu",
            "d_model": self.width,
            "num_mel_bins": self.mels,
            "vocab_size": self.vocabulary,
            "encoder_layers": self.layers[0],
            "decoder_layers": self.layers[1],
            "encoder_attention_heads": self.heads[0],
            "decoder_attention_heads": self.heads[1],
            "encoder_ffn_dim": self.intermediate[0],
            "decoder_ffn_dim": self.intermediate[1],
            "max_source_positions": self.positions[0],
            "max_target_positions": self.positions[1],
            "scale_embedding": false,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": end + 1,
            "suppress_tokens": hints.get("suppress_ids"),
            "begin_suppress_tokens": hints.get("suppress_ids_begin"),
            "torch_dtype": "float16"
        })
    }

    fn generation(&self, hints: &Value) -> Value {
        let end = self.end();
        // The special tokens before `<|notimestamps|>`: start, languages, translate, transcribe and four more.
        let languages = if self.english() { 99 } else { self.vocabulary.saturating_sub(51_766) };
        json!({
            "alignment_heads": hints.get("alignment_heads"),
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": end + 1,
            "is_multilingual": !self.english(),
            "max_initial_timestamp_index": 50,
            "max_length": self.positions[1],
            "no_timestamps_token_id": end + languages + 7,
            "return_timestamps": false,
            "suppress_tokens": hints.get("suppress_ids"),
            "begin_suppress_tokens": hints.get("suppress_ids_begin")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one variable.
    fn file(shape: &[u32], kind: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = 6_u32.to_le_bytes().to_vec();
        bytes.extend([12, 0]);
        bytes.extend(b"WhisperSpec\0");
        bytes.extend([3, 0, 0, 0, 1, 0, 0, 0, 2, 0, b'x', 0, shape.len() as u8]);
        shape.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
        bytes.push(kind);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn variables_are_read_and_cut_files_are_refused() {
        let whole = file(&[1, 2], 4, &[0, 0x3c, 0, 0x40]);
        let model = read(&whole).unwrap();
        assert_eq!(model.sides::<2>("x"), Ok([1, 2]));
        assert_eq!(model.get("x").unwrap().halves(), Ok(vec![0, 0x3c, 0, 0x40]));
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn what_is_written_is_half_precision_whatever_was_read() {
        let floats: Vec<u8> = [1.0_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let expected = Ok(vec![0, 0x3c, 0, 0xc0]);
        assert_eq!(read(&file(&[2], 0, &floats)).unwrap().get("x").unwrap().halves(), expected);
        let brain: Vec<u8> = [1.0_f32, -2.0].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        assert_eq!(read(&file(&[2], 5, &brain)).unwrap().get("x").unwrap().halves(), expected);
        assert!(read(&file(&[2], 1, &[1, 2])).unwrap().get("x").unwrap().halves().is_err());
    }

    #[test]
    fn shapes_that_lie_are_refused() {
        for (shape, kind) in [(&[3_u32][..], 4), (&[u32::MAX, u32::MAX, u32::MAX], 4), (&[2], 9), (&[1; 9], 4)] {
            assert!(read(&file(shape, kind, &[0; 4])).is_err(), "{shape:?} {kind}");
        }
    }
}
