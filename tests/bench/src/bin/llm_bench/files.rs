//! The files that are measured: where one lies, how many bytes of it a token reads, and a larger one made up of noise.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::quantized::gguf_file::{Content, Value as Metadata, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use host_inference::store::{Layout, ModelName, Store, default_directory};
use serde_json::{Value, json};

pub(crate) fn locate(name: &str) -> Result<PathBuf> {
    let name: ModelName = name.parse()?;
    let installed = Store::open(default_directory()).find(&name)?;
    let installed = installed.with_context(|| format!("{name} is not in the store: run `host models pull {name}`"))?;
    match installed.layout {
        Layout::Gguf(path) => Ok(path),
        _ => bail!("{name} is no GGUF file"),
    }
}

/// Every weight is read once for a token, but for an embedding that is not the output matrix as well.
pub(crate) fn describe(model: &Path) -> Result<Value> {
    let content = open(model)?;
    let untied = content.tensor_infos.contains_key("output.weight");
    let (mut bytes, mut parameters) = (0, 0);
    for (name, tensor) in &content.tensor_infos {
        let elements = tensor.shape.elem_count();
        parameters += elements;
        if !(untied && name == "token_embd.weight") {
            bytes += elements / tensor.ggml_dtype.block_size() * tensor.ggml_dtype.type_size();
        }
    }
    Ok(json!({ "bytes_per_token": bytes, "parameters": parameters }))
}

fn open(model: &Path) -> Result<Content> {
    let file = File::open(model).with_context(|| format!("cannot open {}", model.display()))?;
    Content::read(&mut BufReader::new(file)).with_context(|| format!("cannot read {}", model.display()))
}

/// Rows of every matrix are divisible by 256, so that each quantization applies as its authors meant it.
const WIDTH: usize = 1024;
const FEED_FORWARD: usize = 2816;
const LAYERS: usize = 24;
const HEADS: usize = 16;
const KEY_HEADS: usize = 4;
const HEAD: usize = WIDTH / HEADS;
const CONTEXT: u32 = 4096;

/// Writes Q8_0, from which the quantizations are made: the weights are noise, and mean no less for having been rounded.
pub(crate) fn random(vocabulary: &Path, output: &Path) -> Result<Value> {
    let source = open(vocabulary)?;
    let mut metadata: BTreeMap<String, Metadata> =
        source.metadata.into_iter().filter(|(key, _)| key.starts_with("tokenizer.")).collect();
    let tokens = match metadata.get("tokenizer.ggml.tokens") {
        Some(Metadata::Array(tokens)) => tokens.len(),
        _ => bail!("{} has no tokenizer.ggml.tokens", vocabulary.display()),
    };
    let text = |value: &str| Metadata::String(value.to_owned());
    let count = |value: usize| u32::try_from(value).map(Metadata::U32);
    metadata.extend([
        ("general.architecture".to_owned(), text("llama")),
        ("general.name".to_owned(), text("random")),
        ("general.quantization_version".to_owned(), Metadata::U32(2)),
        ("llama.attention.head_count".to_owned(), count(HEADS)?),
        ("llama.attention.head_count_kv".to_owned(), count(KEY_HEADS)?),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Metadata::F32(1e-5)),
        ("llama.block_count".to_owned(), count(LAYERS)?),
        ("llama.context_length".to_owned(), Metadata::U32(CONTEXT)),
        ("llama.embedding_length".to_owned(), count(WIDTH)?),
        ("llama.feed_forward_length".to_owned(), count(FEED_FORWARD)?),
        ("llama.rope.dimension_count".to_owned(), count(HEAD)?),
        ("llama.rope.freq_base".to_owned(), Metadata::F32(10_000.0)),
        ("llama.vocab_size".to_owned(), count(tokens)?),
    ]);
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), noise.matrix(tokens, WIDTH)?),
        ("output_norm.weight".to_owned(), ones(WIDTH)?),
    ];
    for layer in 0..LAYERS {
        let matrices = [
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", KEY_HEADS * HEAD, WIDTH),
            ("attn_v", KEY_HEADS * HEAD, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", FEED_FORWARD, WIDTH),
            ("ffn_up", FEED_FORWARD, WIDTH),
            ("ffn_down", WIDTH, FEED_FORWARD),
        ];
        for (name, rows, columns) in matrices {
            tensors.push((format!("blk.{layer}.{name}.weight"), noise.matrix(rows, columns)?));
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensors.push((format!("blk.{layer}.{name}.weight"), ones(WIDTH)?));
        }
    }
    let parameters: usize = tensors.iter().map(|(_, tensor)| tensor.shape().elem_count()).sum();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let file = File::create(output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut file = BufWriter::new(file);
    write(&mut file, &metadata, &tensors).with_context(|| format!("cannot write {}", output.display()))?;
    file.flush().with_context(|| format!("cannot write {}", output.display()))?;
    Ok(json!({ "parameters": parameters }))
}

fn ones(length: usize) -> Result<QTensor> {
    Ok(QTensor::quantize(&Tensor::from_vec(vec![1f32; length], length, &Device::Cpu)?, GgmlDType::F32)?)
}

/// xorshift64* (Vigna, 2016): the same numbers everywhere.
struct Noise(u64);

impl Noise {
    /// Uniform, with a standard deviation of 1/sqrt(columns): states keep their size from layer to layer.
    fn matrix(&mut self, rows: usize, columns: usize) -> Result<QTensor> {
        let width = 2.0 * (3.0 / columns as f64).sqrt();
        let values: Vec<f32> = (0..rows * columns).map(|_| (self.uniform() * width) as f32).collect();
        Ok(QTensor::quantize(&Tensor::from_vec(values, (rows, columns), &Device::Cpu)?, GgmlDType::Q8_0)?)
    }

    /// In -0.5..0.5.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }
}
