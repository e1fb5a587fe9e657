//! Which files of a repository make its model.
//!
//! Repositories hold the same weights in several forms. Of those the safetensors in the type that the model was published
//! in are taken, with what its loaders read beside them, and nothing else.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::store::{plain_file_name, plain_path};

/// What loaders read in the folder itself, beside the weights.
const BESIDE: [&str; 20] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    "source.spm",
    "target.spm",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];
/// The file that says of which parts a model that draws is made.
const PARTS: &str = "model_index.json";
/// Parts that no drawing needs.
const NEEDLESS: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];
/// How many names an error shows.
const SHOWN: usize = 8;

/// What a hub tells of a repository.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit that the files are of.
    pub(super) sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    /// The files to fetch, the small ones first.
    ///
    /// # Errors
    /// With what the repository has instead of weights that are read.
    pub(super) fn wanted(&self) -> Result<Vec<String>, String> {
        // Names that leave the folder are nobody's files.
        let all: BTreeSet<&str> =
            self.siblings.iter().map(|file| file.rfilename.as_str()).filter(|name| plain_path(name)).collect();
        if all.contains(PARTS) {
            return Ok(parts(&all));
        }
        let mut wanted: Vec<String> = BESIDE.into_iter().filter(|name| all.contains(name)).map(str::to_owned).collect();
        let index = "model.safetensors.index.json";
        if all.contains("model.safetensors") {
            wanted.push("model.safetensors".to_owned());
        } else if all.contains(index) {
            wanted.push(index.to_owned());
            let shard =
                |name: &&&str| name.starts_with("model-") && name.ends_with(".safetensors") && plain_file_name(name);
            wanted.extend(all.iter().filter(shard).map(|name| (*name).to_owned()));
        } else if let Some(foreign) = foreign(&all) {
            wanted.extend(foreign.iter().map(|name| (*name).to_owned()));
        } else {
            return Err(no_weights(&all));
        }
        Ok(wanted)
    }
}

/// The weights in a form that becomes safetensors in the store: Whisper of CTranslate2, and encoders in ONNX.
fn foreign(all: &BTreeSet<&str>) -> Option<&'static [&'static str]> {
    const FORMS: [&[&str]; 4] =
        [&["vocabulary.json", "model.bin"], &["vocabulary.txt", "model.bin"], &["onnx/model.onnx"], &["model.onnx"]];
    FORMS.into_iter().find(|form| form.iter().all(|name| all.contains(name)))
}

fn no_weights(all: &BTreeSet<&str>) -> String {
    let gguf: Vec<&str> = all.iter().copied().filter(|name| is_one_file(name)).collect();
    let shown = |names: &[&str]| names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if gguf.is_empty() {
        let names: Vec<&str> = all.iter().copied().collect();
        return format!("it has no model.safetensors and no GGUF file; among its files are {}", shown(&names));
    }
    format!("it has files that are models each; put the name of one behind the repository: {}", shown(&gguf))
}

/// Whether a file alone is a model, by its name.
fn is_one_file(name: &str) -> bool {
    name.ends_with(".gguf")
        || name.rsplit('/').next().is_some_and(|file| file.starts_with("ggml-") && file.ends_with(".bin"))
}

/// A model of several parts, each in a folder of its own.
fn parts(all: &BTreeSet<&str>) -> Vec<String> {
    let in_parts = |name: &&str| name.split_once('/').is_some_and(|(folder, _)| !NEEDLESS.contains(&folder));
    let of_parts: Vec<&str> = all.iter().copied().filter(in_parts).collect();
    let weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    // `model.fp16.safetensors` is another form of `model.safetensors`.
    let plain = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        file.trim_end_matches(".json").trim_end_matches(".index").matches('.').count() == 1
    };
    let folder = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let plainly: BTreeSet<String> =
        of_parts.iter().filter(|name| weights(name) && plain(name)).map(|name| folder(name)).collect();
    let wanted = |name: &&str| {
        let text = [".json", ".txt", ".model"].iter().any(|end| name.ends_with(end));
        if weights(name) { plain(name) || !plainly.contains(&folder(name)) } else { text }
    };
    let mut files: Vec<String> = of_parts.iter().copied().filter(wanted).map(str::to_owned).collect();
    files.sort_by_key(|name| name.ends_with(".safetensors"));
    std::iter::once(PARTS.to_owned()).chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> Result<Vec<String>, String> {
        let siblings = names.iter().map(|name| Sibling { rfilename: (*name).to_owned() }).collect();
        Listing { sha: None, siblings }.wanted()
    }

    #[test]
    fn one_form_of_the_weights_is_taken_with_what_is_read_beside_it() {
        let files =
            ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "vocab.json"];
        assert_eq!(wanted(&files).unwrap(), ["config.json", "vocab.json", "model.safetensors"]);
        let shards = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let names =
            wanted(&[&shards[..], &["model.safetensors.index.json", "../model-x.safetensors"]].concat()).unwrap();
        assert_eq!(names, [shards[0], "model.safetensors.index.json", shards[1], shards[2]]);
    }

    #[test]
    fn parts_are_taken_in_their_plain_form_where_there_is_one() {
        let names = wanted(&[
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "safety_checker/model.safetensors",
            "tokenizer/merges.txt",
            "v1-5-pruned.safetensors",
        ]);
        let vae = "vae/diffusion_pytorch_model.fp16.safetensors";
        let unet = "unet/diffusion_pytorch_model.safetensors";
        assert_eq!(names.unwrap(), ["model_index.json", "tokenizer/merges.txt", "unet/config.json", unet, vae]);
    }

    #[test]
    fn forms_that_are_converted_are_taken_where_there_is_no_other() {
        let whisper = ["README.md", "config.json", "model.bin", "tokenizer.json", "vocabulary.txt"];
        let taken = ["config.json", "tokenizer.json", "vocabulary.txt", "model.bin"];
        assert_eq!(wanted(&whisper).unwrap(), taken);
        let onnx = ["config.json", "onnx/model.onnx", "onnx/model_quantized.onnx", "tokenizer.json"];
        assert_eq!(wanted(&onnx).unwrap(), ["config.json", "tokenizer.json", "onnx/model.onnx"]);
        let both = wanted(&[&onnx[..], &["model.safetensors"]].concat()).unwrap();
        assert_eq!(both, ["config.json", "tokenizer.json", "model.safetensors"]);
    }

    #[test]
    fn what_has_no_weights_is_told_by_what_it_has() {
        assert!(wanted(&["config.json", "a.Q4_0.gguf"]).unwrap_err().contains("a.Q4_0.gguf"));
        assert!(wanted(&["ggml-tiny.bin", "ggml-base.bin"]).unwrap_err().contains("ggml-tiny.bin"));
        assert!(wanted(&["pytorch_model.bin"]).unwrap_err().contains("pytorch_model.bin"));
    }
}
