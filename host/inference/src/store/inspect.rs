//! What a file or folder of weights is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{StoreError, check_safetensors, foreign, plain_file_name};
use crate::backend::Pooling;
use crate::catalogue::Task;
use crate::diffusion::{PIPELINES, Parts};
use crate::encoder;
use crate::seq2seq;
use crate::synthesis;
use crate::text::decoder::hugging_face::MODEL_TYPES;
use crate::vision;

/// `config.json` has a few kilobytes.
const CONFIG_BYTES: u64 = 1 << 20;
/// Which shard has which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// Some 100 bytes per tensor.
const INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1024;

/// How weights are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// One GGUF file.
    Gguf(PathBuf),
    /// A folder with `config.json`, `tokenizer.json` and `model.safetensors` or its shards, or with `model_index.json`
    /// and a folder of these for each part.
    Safetensors(PathBuf),
}

impl Layout {
    /// The folder that the weights are in.
    pub fn folder(&self) -> &Path {
        match self {
            Layout::Gguf(file) => file.parent().unwrap_or(file),
            Layout::Safetensors(folder) => folder,
        }
    }
}

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// How the weights are stored.
    pub layout: Layout,
    /// What the model does.
    pub task: Task,
    /// The size of the files in bytes.
    pub bytes: u64,
    /// The length of an encoder's vectors.
    pub dimensions: Option<usize>,
    /// How the checkpoint of an encoder asks for one vector of its token states.
    pub pooling: Option<Pooling>,
    /// The files that make the model.
    pub files: Vec<PathBuf>,
}

/// Tells what lies at `path` from names, magic numbers, `config.json` and the weights' header; reads no weights.
///
/// # Errors
/// [`StoreError::NotAModel`] saying what would be one, [`StoreError::Io`].
pub fn inspect(path: &Path) -> Result<Inspected, StoreError> {
    if let Some(foreign) = foreign::recognize(path)? {
        let why = format!("it is {}; `host models import NAME PATH` makes it one that can", foreign.name());
        return Err(refuse(path, why));
    }
    let metadata = fs::metadata(path).map_err(StoreError::io("cannot read", path))?;
    if metadata.is_dir() { folder(path) } else { gguf(path) }
}

pub(super) fn is_gguf_name(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The model's `config.json`, bounded.
pub(crate) fn read_config(folder: &Path) -> Result<Value, StoreError> {
    let path = folder.join("config.json");
    let text = read_text(&path, CONFIG_BYTES)?;
    serde_json::from_slice(&text).map_err(|error| refuse(&path, format!("it is no JSON: {error}")))
}

/// A whole file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).map_err(StoreError::io("cannot read", path))?;
    let mut text = Vec::new();
    let count = file.take(limit + 1).read_to_end(&mut text).map_err(StoreError::io("cannot read", path))?;
    if count as u64 > limit {
        return Err(refuse(path, format!("it has more than {limit} bytes")));
    }
    Ok(text)
}

fn gguf(path: &Path) -> Result<Inspected, StoreError> {
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(StoreError::io("cannot read", path))?;
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(StoreError::io("cannot read", path)(error));
        }
        _ => {
            let why =
                "it is no GGUF file; give one, or a folder with config.json, tokenizer.json and model.safetensors";
            return Err(refuse(path, why.to_owned()));
        }
    }
    let bytes = file.metadata().map_err(StoreError::io("cannot read", path))?.len();
    Ok(Inspected {
        layout: Layout::Gguf(path.to_path_buf()),
        task: Task::TextGeneration,
        bytes,
        dimensions: None,
        pooling: None,
        files: vec![path.to_path_buf()],
    })
}

fn folder(path: &Path) -> Result<Inspected, StoreError> {
    if path.join("model_index.json").exists() {
        return parts(path);
    }
    if !path.join("config.json").exists() {
        return only_gguf(path);
    }
    let config = read_config(path)?;
    if let Some((family, task)) = vision::family(&config).map_err(|why| refuse(path, why))? {
        return pictures(path, family, task);
    }
    let task = match config.get("model_type").and_then(Value::as_str) {
        Some(known) if encoder::MODEL_TYPES.contains(&known) => encoder::task(&config),
        Some("whisper") => Task::AutomaticSpeechRecognition,
        Some(synthesis::MODEL_TYPE) => Task::TextToSpeech,
        Some(known) if MODEL_TYPES.contains(&known) => Task::TextGeneration,
        Some("bart") => Task::Summarization,
        Some(known) if seq2seq::config::MODEL_TYPES.contains(&known) => Task::Translation,
        Some(other) => {
            let (encoders, known) = (encoder::MODEL_TYPES.join(", "), MODEL_TYPES.join(", "));
            let why = format!(
                "its config.json says model_type {other:?}; this host reads the encoders {encoders}, whisper, vits, the \
                 language models {known}, the encoder-decoders {} and the models of pictures {} from safetensors",
                seq2seq::config::MODEL_TYPES.join(", "),
                vision::FAMILIES.map(|(name, _)| name).join(", ")
            );
            return Err(refuse(path, why));
        }
        None => return Err(refuse(path, "its config.json has no model_type".to_owned())),
    };
    let tokens = if task == Task::TextToSpeech { "vocab.json" } else { "tokenizer.json" };
    let mut files: Vec<_> = ["config.json", tokens].map(|name| path.join(name)).into();
    if matches!(task, Task::Translation | Task::Summarization) {
        // Their tokenizers have several forms; which of them are there is the loader's matter.
        files.retain(|file| file.exists());
        let forms =
            ["source.spm", "target.spm", "vocab.json", "target_vocab.json", "sentencepiece.bpe.model", "spiece.model"];
        files.extend(forms.map(|name| path.join(name)).into_iter().filter(|file| file.exists()));
    }
    let beside = [INDEX, "tokenizer_config.json", "chat_template.jinja", "generation_config.json"];
    files.extend(beside.map(|name| path.join(name)).into_iter().filter(|file| file.exists()));
    if task == Task::TextToSpeech {
        let beside = ["special_tokens_map.json", "added_tokens.json"];
        files.extend(beside.map(|name| path.join(name)).into_iter().filter(|file| file.exists()));
    }
    let weights = weight_files(path)?;
    for file in &weights {
        check_safetensors(file).map_err(|why| refuse(file, why))?;
    }
    files.extend(weights);
    let bytes = size(&files)?;
    let width = ["hidden_size", "dim", "n_embd"].into_iter().find_map(|key| config.get(key).and_then(Value::as_u64));
    let dimensions = width.and_then(|width| usize::try_from(width).ok());
    let pooling = match task {
        Task::TextEmbeddings => encoder::of_checkpoint(path).map_err(|why| refuse(path, why))?,
        _ => None,
    };
    Ok(Inspected {
        layout: Layout::Safetensors(path.to_path_buf()),
        task,
        bytes,
        dimensions: dimensions.filter(|_| task == Task::TextEmbeddings),
        pooling,
        files,
    })
}

/// Bytes of `files` together.
fn size(files: &[PathBuf]) -> Result<u64, StoreError> {
    files.iter().try_fold(0_u64, |bytes, file| {
        let metadata = fs::metadata(file).map_err(StoreError::io("cannot read", file))?;
        Ok(bytes.saturating_add(metadata.len()))
    })
}

/// A folder with a model that looks at pictures: it has a `preprocessor_config.json`, unless it is timm's, and a
/// `tokenizer.json` if it knows texts.
fn pictures(path: &Path, family: &str, task: Task) -> Result<Inspected, StoreError> {
    let mut files: Vec<_> = vision::configurations(family).iter().map(|name| path.join(name)).collect();
    let texts = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
    let beside = [INDEX, "generation_config.json"].into_iter().chain(texts);
    files.extend(beside.map(|name| path.join(name)).filter(|file| file.exists()));
    let weights = weight_files(path)?;
    for file in &weights {
        check_safetensors(file).map_err(|why| refuse(file, why))?;
    }
    files.extend(weights);
    let bytes = size(&files)?;
    Ok(Inspected {
        layout: Layout::Safetensors(path.to_path_buf()),
        task,
        bytes,
        dimensions: None,
        pooling: None,
        files,
    })
}

/// A model of several parts in folders of their own, as diffusers publishes them.
fn parts(path: &Path) -> Result<Inspected, StoreError> {
    let parts = Parts::open(path).map_err(|why| refuse(path, why))?;
    if !PIPELINES.contains(&parts.class()) {
        let known = PIPELINES.join(", ");
        let why = format!("its model_index.json says _class_name {:.80?}; this host reads {known}", parts.class());
        return Err(refuse(path, why));
    }
    let files = parts.files().map_err(|why| refuse(path, why))?;
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "safetensors")) {
        check_safetensors(file).map_err(|why| refuse(file, why))?;
    }
    let bytes = size(&files)?;
    let layout = Layout::Safetensors(path.to_path_buf());
    Ok(Inspected { layout, task: Task::TextToImage, bytes, dimensions: None, pooling: None, files })
}

/// The files that hold the weights of the checkpoint in `folder`: `model.safetensors`, or the shards that its index
/// names.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    let text = read_text(&path, INDEX_BYTES)?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|error| refuse(&path, format!("it is no index of shards: {error}")))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| !plain_file_name(name) || !name.ends_with(".safetensors")) {
        return Err(refuse(&path, format!("it names the file {name:.80?}, which is no name of a safetensors file")));
    }
    if !(1..=MAX_SHARDS).contains(&names.len()) {
        return Err(refuse(&path, format!("it names {} files, not 1 to {MAX_SHARDS}", names.len())));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn only_gguf(path: &Path) -> Result<Inspected, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(StoreError::io("cannot list", path))? {
        let entry = entry.map_err(StoreError::io("cannot list", path))?;
        if entry.file_name().to_str().is_some_and(is_gguf_name) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => gguf(one),
        [] => Err(refuse(path, "it has neither a config.json nor a GGUF file".to_owned())),
        _ => Err(refuse(path, format!("it has {} GGUF files; give the path of one", found.len()))),
    }
}

fn refuse(path: &Path, why: String) -> StoreError {
    StoreError::NotAModel { path: path.to_path_buf(), why }
}
