//! Models in forms that nothing here computes with, and what becomes of them on their way into the store.
//!
//! Each form is told by its files, read by a module of its own and written as the safetensors that its model was published
//! as; the loaders need to know no more forms for it. What cannot be told from a model's own weights (labels, special
//! tokens) comes along as the files beside them.

use std::fs;
use std::path::{Path, PathBuf};

use super::whisper::{Whisper, published};
use super::{StoreError, convert, ctranslate2, ggml, inspect, read_config};
use crate::backend::Pooling;
use crate::encoder;
use crate::text::gguf::GgufFile;

/// What an encoder in ONNX brings beside its weights; the first two it needs.
const BESIDE_ENCODER: [&str; 4] = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
/// The same of a Whisper model; a missing tokenizer is made where the form has the words.
const BESIDE_WHISPER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"];
/// Files of a folder that are looked at.
const MAX_FILES: usize = 4096;

/// A model in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Foreign {
    /// A folder with `model.bin` of CTranslate2.
    Ctranslate2(PathBuf),
    /// An encoder's graph, and the folder of the files beside it.
    Onnx { graph: PathBuf, folder: PathBuf },
    /// A file of whisper.cpp.
    Ggml(PathBuf),
    /// The tensors of a Whisper model as GGUF, and the folder of the files beside it.
    WhisperGguf { file: PathBuf, folder: PathBuf },
}

/// Tells whether what lies at `path` is a model in another form. Files that the store takes as they are come first.
///
/// # Errors
/// When there are several to choose from, or the system refuses.
pub(super) fn recognize(path: &Path) -> Result<Option<Foreign>, StoreError> {
    let metadata = fs::metadata(path).map_err(StoreError::io("cannot read", path))?;
    if metadata.is_dir() { folder(path) } else { Ok(file(path)) }
}

/// Whether what lies at `path` is a model of speech in integers, which the store keeps as the floats that they stand for;
/// `precision = "int8"` rounds them again in memory.
pub fn is_rounded_speech(path: &Path) -> bool {
    recognize(path).is_ok_and(|found| found.is_some_and(|foreign| foreign.is_rounded_speech()))
}

fn file(path: &Path) -> Option<Foreign> {
    let parent = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.ends_with(".onnx") {
        let inside = parent.file_name().is_some_and(|name| name == "onnx") && !parent.join("config.json").exists();
        let folder = if inside { parent.parent().map(Path::to_path_buf).unwrap_or_default() } else { parent };
        return Some(Foreign::Onnx { graph: path.to_path_buf(), folder });
    }
    if name == "model.bin" && ctranslate2::is_one(path) {
        return Some(Foreign::Ctranslate2(parent));
    }
    if ggml::is_one(path) {
        return Some(Foreign::Ggml(path.to_path_buf()));
    }
    is_whisper(path).then(|| Foreign::WhisperGguf { file: path.to_path_buf(), folder: parent })
}

fn folder(path: &Path) -> Result<Option<Foreign>, StoreError> {
    let ours = ["model_index.json", "model.safetensors", "model.safetensors.index.json"];
    if ours.iter().any(|name| path.join(name).exists()) {
        return Ok(None);
    }
    if ctranslate2::is_one(&path.join("model.bin")) {
        return Ok(Some(Foreign::Ctranslate2(path.to_path_buf())));
    }
    let files = files(path)?;
    let ending =
        |end: &str| files.iter().filter(|file| file.to_string_lossy().ends_with(end)).cloned().collect::<Vec<_>>();
    let ggml: Vec<PathBuf> = ending(".bin").into_iter().filter(|file| ggml::is_one(file)).collect();
    if let Some(one) = one(path, "ggml files", ggml)? {
        return Ok(Some(Foreign::Ggml(one)));
    }
    let gguf: Vec<PathBuf> = ending(".gguf").into_iter().filter(|file| is_whisper(file)).collect();
    if let Some(file) = one(path, "GGUF files of Whisper models", gguf)? {
        return Ok(Some(Foreign::WhisperGguf { file, folder: path.to_path_buf() }));
    }
    for place in [path.to_path_buf(), path.join("onnx")] {
        let plain = place.join("model.onnx");
        let graphs = if plain.exists() { vec![plain] } else { onnx(&place)? };
        if let Some(graph) = one(path, "ONNX files", graphs)? {
            return Ok(Some(Foreign::Onnx { graph, folder: path.to_path_buf() }));
        }
    }
    Ok(None)
}

fn onnx(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let files = if folder.is_dir() { files(folder)? } else { Vec::new() };
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "onnx")).collect())
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io("cannot list", folder))?.take(MAX_FILES) {
        files.push(entry.map_err(StoreError::io("cannot list", folder))?.path());
    }
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

fn one(folder: &Path, what: &str, mut found: Vec<PathBuf>) -> Result<Option<PathBuf>, StoreError> {
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let names: Vec<_> =
        found.iter().take(8).filter_map(|file| file.file_name()).map(|name| name.to_string_lossy()).collect();
    let why = format!("it has {} {what} ({}); give the path of one", found.len(), names.join(", "));
    Err(StoreError::NotAModel { path: folder.to_path_buf(), why })
}

/// Whether a GGUF file holds Whisper's tensors. One that says no architecture is told by them.
fn is_whisper(path: &Path) -> bool {
    if !path.file_name().and_then(|name| name.to_str()).is_some_and(inspect::is_gguf_name) {
        return false;
    }
    let Ok(file) = GgufFile::open(path) else { return false };
    let view = file.view();
    match view.text("general.architecture") {
        Ok(Some(architecture)) => architecture == "whisper",
        _ => ["encoder.conv1.weight", "model.encoder.conv1.weight"].iter().any(|name| view.tensor(name).is_some()),
    }
}

impl Foreign {
    /// What it is, to be put after "it is".
    pub(super) fn name(&self) -> &'static str {
        match self {
            Foreign::Ctranslate2(_) => "a model of CTranslate2",
            Foreign::Onnx { .. } => "a model in ONNX",
            Foreign::Ggml(_) => "a model of whisper.cpp",
            Foreign::WhisperGguf { .. } => "a Whisper model in GGUF",
        }
    }

    /// Whether it is a model of speech whose weights are integers: they are stored as the floats that they stand for.
    pub(super) fn is_rounded_speech(&self) -> bool {
        match self {
            Foreign::Ctranslate2(folder) => ctranslate2::rounded(folder),
            Foreign::Ggml(file) => ggml::rounded(file),
            Foreign::WhisperGguf { file, .. } => GgufFile::open(file).is_ok_and(|file| {
                let view = file.view();
                let rounded = |name: &str| view.tensor(name).is_some_and(|(info, _)| ggml::is_rounded(info.dtype));
                view.tensor_names().into_iter().any(rounded)
            }),
            Foreign::Onnx { .. } => false,
        }
    }

    /// Writes the model into the folder `to`, and gives the pooling that an encoder's files ask for.
    ///
    /// # Errors
    /// [`StoreError::NotAModel`] with what is not understood or missing, [`StoreError::Io`].
    pub(super) fn convert(&self, to: &Path) -> Result<Option<Pooling>, StoreError> {
        match self {
            Foreign::Ctranslate2(folder) => {
                beside(folder, to, &BESIDE_WHISPER)?;
                ctranslate2::whisper(folder, to)?;
            }
            Foreign::Ggml(file) => ggml::whisper(file, to)?,
            Foreign::WhisperGguf { file, folder } => {
                required(folder, file, &["config.json", "tokenizer.json"])?;
                beside(folder, to, &BESIDE_WHISPER)?;
                beside(folder, to, &["config.json", "generation_config.json"])?;
                gguf(file, to)?;
            }
            Foreign::Onnx { graph, folder } => {
                required(folder, graph, &BESIDE_ENCODER[..2])?;
                beside(folder, to, &BESIDE_ENCODER)?;
                let config = read_config(folder)?;
                let kind = config["model_type"].as_str().unwrap_or_default();
                if !encoder::MODEL_TYPES.contains(&kind) {
                    let known = encoder::MODEL_TYPES.join(", ");
                    let why = format!(
                        "its config.json says model_type {kind:.80?}; of models in ONNX the encoders {known} are read"
                    );
                    return Err(StoreError::NotAModel { path: folder.clone(), why });
                }
                convert::onnx_encoder(graph, to)?;
                // Names are told from a graph that was made for something else, so the model is read once as it will be.
                encoder::check(to, &config).map_err(|why| StoreError::NotAModel { path: graph.clone(), why })?;
                let pooling = encoder::of_checkpoint(folder);
                return pooling.map_err(|why| StoreError::NotAModel { path: folder.clone(), why });
            }
        }
        Ok(None)
    }
}

/// Copies those of `names` that are there.
fn beside(from: &Path, to: &Path, names: &[&str]) -> Result<(), StoreError> {
    for name in names {
        let (source, target) = (from.join(name), to.join(name));
        if source.is_file() && source != target {
            fs::copy(&source, &target).map_err(StoreError::io("cannot copy", &source))?;
        }
    }
    Ok(())
}

fn required(folder: &Path, of: &Path, names: &[&str]) -> Result<(), StoreError> {
    match names.iter().find(|name| !folder.join(name).is_file()) {
        None => Ok(()),
        Some(name) => {
            let why = format!("there is no {name} in {}; put the model's own there", folder.display());
            Err(StoreError::NotAModel { path: of.to_path_buf(), why })
        }
    }
}

fn gguf(source: &Path, to: &Path) -> Result<(), StoreError> {
    let refuse = |why: String| StoreError::NotAModel { path: source.to_path_buf(), why };
    let file = GgufFile::open(source).map_err(|error| refuse(error.to_string()))?;
    let view = file.view();
    let mut whisper = Whisper { tensors: Default::default(), heads: [1; 2] };
    for name in view.tensor_names() {
        let Some((to, (info, data))) = published(name).zip(view.tensor(name)) else { continue };
        let tensor = ggml::half_precision(info.dtype, &info.shape, data);
        let tensor = tensor.ok_or_else(|| refuse(format!("tensor {name:.80} is too large")))?;
        whisper.tensors.insert(to, tensor);
    }
    whisper.write_beside_config(to)?.map_err(refuse)
}
