//! A language model as it lies on disk: a GGUF file, or the directory of a published checkpoint.
//!
//! Both give the same four things: what is computed, the weights, the vocabulary and the chat template.

use std::path::{Path, PathBuf};

use super::decoder::checkpoint::Checkpoint;
use super::decoder::{self, DecoderError, Description, Source};
use super::gguf::GgufFile;
use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::{TokenizerError, Vocabulary};

/// An open model, its weights mapped.
pub(super) enum ModelFiles {
    Gguf(GgufFile),
    Directory { path: PathBuf, checkpoint: Checkpoint },
}

impl ModelFiles {
    /// Reads the headers of the file or directory at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, DecoderError> {
        if path.is_dir() {
            Ok(Self::Directory { path: path.to_owned(), checkpoint: Checkpoint::open(path)? })
        } else {
            Ok(Self::Gguf(GgufFile::open(path)?))
        }
    }

    /// Bytes of the weights, with the little that lies around them.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Gguf(file) => file.length(),
            Self::Directory { checkpoint, .. } => checkpoint.length(),
        }
    }

    pub(super) fn describe(&self) -> Result<Description, DecoderError> {
        match self {
            Self::Gguf(file) => decoder::gguf::describe(file.view()),
            Self::Directory { checkpoint, .. } => decoder::hugging_face::describe(&checkpoint.config, self.source()),
        }
    }

    pub(super) fn source(&self) -> Source<'_> {
        match self {
            Self::Gguf(file) => Source::Gguf(file.view()),
            Self::Directory { checkpoint, .. } => Source::Checkpoint(checkpoint),
        }
    }

    pub(super) fn vocabulary(&self) -> Result<Vocabulary, TokenizerError> {
        match self {
            Self::Gguf(file) => Vocabulary::from_gguf(file.view()),
            Self::Directory { path, .. } => Vocabulary::from_hugging_face(path),
        }
    }

    pub(super) fn template(&self, words: &Vocabulary) -> Result<Option<ChatTemplate>, TemplateError> {
        let (bos, eos) = (words.bos_text(), words.eos_text());
        match self {
            Self::Gguf(file) => ChatTemplate::from_gguf(file.view(), bos, eos),
            Self::Directory { path, .. } => ChatTemplate::from_hugging_face(path, bos, eos),
        }
    }
}
