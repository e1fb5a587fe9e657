//! Where the parts of a model lie: the layout that diffusers publishes.
//!
//! `model_index.json` names the parts; each is a folder with its configuration and its weights, whole or in shards, in
//! full precision or in the variant `fp16`. Both are read; of the two the one without a variant is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::config::Config;
use crate::store::read_text;
use crate::tensors::Tensors;

const INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1024;
/// What lies beside weights in a tokenizer's or scheduler's folder.
const SMALL: [&str; 8] = [
    "config.json",
    "scheduler_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The pipeline that is none of Stable Diffusion's.
pub(super) const FLUX: &str = "FluxPipeline";
/// The pipelines, by diffusers' names, whose models are read here. What a pipeline does with a picture that it is given
/// is the request's choice here, so those for pictures and masks are the same model.
pub(crate) const PIPELINES: [&str; 8] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
    FLUX,
];

/// The parts that a folder's `model_index.json` names.
pub(crate) struct Parts {
    folder: PathBuf,
    index: Config,
}

impl Parts {
    pub(crate) fn open(folder: &Path) -> Result<Parts, String> {
        Ok(Parts { folder: folder.to_owned(), index: Config::open(folder.join("model_index.json"))? })
    }

    /// The pipeline's class in diffusers.
    pub(crate) fn class(&self) -> &str {
        self.index.text("_class_name").unwrap_or_default()
    }

    pub(super) fn index(&self) -> &Config {
        &self.index
    }

    /// The class of the part `name`; none if the model has no such part.
    pub(super) fn part(&self, name: &str) -> Option<&str> {
        self.index.get(name).and_then(|pair| pair.get(1)).and_then(Value::as_str)
    }

    pub(super) fn path(&self, part: &str) -> PathBuf {
        self.folder.join(part)
    }

    pub(super) fn config(&self, part: &str) -> Result<Config, String> {
        Config::open(self.path(part).join("config.json"))
    }

    pub(super) fn tensors(&self, part: &str) -> Result<Tensors, String> {
        Tensors::open_files(&weights(&self.path(part))?)
    }

    /// Every file that the model is made of, the index first.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, String> {
        let mut files = vec![self.folder.join("model_index.json")];
        for part in
            ["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "transformer", "vae", "scheduler"]
        {
            if self.part(part).is_none() {
                continue;
            }
            let folder = self.path(part);
            files.extend(SMALL.map(|name| folder.join(name)).into_iter().filter(|file| file.is_file()));
            if !part.starts_with("tokenizer") && part != "scheduler" {
                files.extend(indexes(&folder).into_iter().filter(|file| file.is_file()));
                files.extend(weights(&folder)?);
            }
        }
        Ok(files)
    }
}

/// The names that an index of shards may have.
fn indexes(folder: &Path) -> Vec<PathBuf> {
    let names = ["diffusion_pytorch_model", "model"].into_iter().flat_map(|stem| {
        ["safetensors.index.json", "safetensors.index.fp16.json"].map(|rest| folder.join(format!("{stem}.{rest}")))
    });
    names.collect()
}

/// The files that hold the weights in `folder`.
fn weights(folder: &Path) -> Result<Vec<PathBuf>, String> {
    for variant in ["", ".fp16"] {
        for stem in ["diffusion_pytorch_model", "model"] {
            let whole = folder.join(format!("{stem}{variant}.safetensors"));
            if whole.is_file() {
                return Ok(vec![whole]);
            }
            let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
            if index.is_file() {
                return shards(folder, &index);
            }
        }
    }
    Err(format!(
        "{}: there is no diffusion_pytorch_model.safetensors or model.safetensors, whole or in shards, also not as fp16",
        folder.display()
    ))
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let fault = |why: String| format!("{}: {why}", index.display());
    let text = read_text(index, INDEX_BYTES).map_err(|error| error.to_string())?;
    let parsed: Index =
        serde_json::from_slice(&text).map_err(|error| fault(format!("it is no index of shards: {error}")))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    let plain = |name: &&String| name.contains(['/', '\\', ':']) || !name.ends_with(".safetensors");
    if let Some(name) = names.iter().find(plain) {
        return Err(fault(format!("it names {name:.80?}, which is no name of a safetensors file")));
    }
    if !(1..=MAX_SHARDS).contains(&names.len()) {
        return Err(fault(format!("it names {} files, not 1 to {MAX_SHARDS}", names.len())));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
