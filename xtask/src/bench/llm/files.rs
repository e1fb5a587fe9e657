//! The files that both sides read: SmolLM2 as it is installed and requantized, and a larger llama made of noise.
//!
//! Requantizing from four bits costs quality and no speed, and speed is what is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::peer::Peer;
use super::{measured, name};
use crate::cache::Slot;
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The installed model.
const MODEL: &str = "smollm2-135m-instruct";
/// What the random model is made by, for its stamp.
const RANDOM: &str = "random llama 1";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Quant {
    #[value(name = "q4_0")]
    Q40,
    #[value(name = "q4_1")]
    Q41,
    #[value(name = "q8_0")]
    Q80,
    #[value(name = "q4_k_m")]
    Q4KM,
    #[value(name = "random_q4_0")]
    RandomQ40,
    #[value(name = "random_q4_k_m")]
    RandomQ4KM,
}

impl Quant {
    /// What llama.cpp calls it; none for the installed file, which has it already.
    fn recipe(self) -> Option<&'static str> {
        match self {
            Self::Q40 | Self::RandomQ40 => Some("Q4_0"),
            Self::Q41 => None,
            Self::Q80 => Some("Q8_0"),
            Self::Q4KM | Self::RandomQ4KM => Some("Q4_K_M"),
        }
    }

    fn is_random(self) -> bool {
        matches!(self, Self::RandomQ40 | Self::RandomQ4KM)
    }
}

pub(super) struct Files<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) program: &'a Path,
    pub(super) peer: &'a Peer,
    pub(super) progress: &'a Progress,
}

/// A file that is measured.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) quant: Quant,
    pub(super) path: PathBuf,
    /// Of weights, that each token reads.
    pub(super) bytes_per_token: f64,
}

impl Files<'_> {
    /// The file of this quantization, made where it is not there yet.
    pub(super) fn get(&self, quant: Quant) -> Result<Model> {
        let installed = command::output(Command::new(self.program).args(["locate", MODEL]))?;
        let installed = PathBuf::from(installed.trim());
        let path = match quant.recipe() {
            Some(recipe) => self.quantized(quant, recipe, &installed)?,
            None => installed,
        };
        let described = measured(Command::new(self.program).arg("describe").arg(&path))?;
        let bytes_per_token = described["bytes_per_token"].as_f64().context("the file has no weights")?;
        self.progress.done_before(&format!("{} in {}: {described}", name(quant), path.display()));
        Ok(Model { quant, path, bytes_per_token })
    }

    fn quantized(&self, quant: Quant, recipe: &str, installed: &Path) -> Result<PathBuf> {
        let slot = Slot::new(&self.workspace.cache, &format!("bench/llm/{}", name(quant)));
        let _lock = slot.lock(self.progress)?;
        let bytes = installed.metadata().with_context(|| format!("cannot read {}", installed.display()))?.len();
        let origin = if quant.is_random() { RANDOM } else { MODEL };
        let made_from = format!("{origin} of a file of {bytes} bytes, {recipe}");
        let path = slot.path.join("model.gguf");
        if slot.is_complete(&made_from) {
            return Ok(path);
        }
        self.progress.step(&format!("writing {}", path.display()));
        slot.start_over()?;
        if quant.is_random() {
            let noise = slot.path.join("noise.gguf");
            measured(Command::new(self.program).arg("random").arg(installed).arg(&noise))?;
            self.peer.quantize(&noise, &path, recipe)?;
            crate::cache::remove(&noise)?;
        } else {
            self.peer.quantize(installed, &path, recipe)?;
        }
        slot.complete(&made_from)?;
        Ok(path)
    }
}
