//! From files to a model that computes: which loader reads which task.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::DeviceChoice;
use super::names::{ConfigFault, Files};
use crate::AiError;
use crate::backend::Model;
use crate::catalogue::Task;
use crate::device::{self, Placement};
use crate::remote::Remote;
use crate::room::Room;
use crate::store::{Layout, read_config};
use crate::text::AdapterSource;
use crate::{diffusion, encoder, mock, seq2seq, speech, synthesis, tasks, text, vision};

/// What all models of an engine share.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) threads: NonZeroUsize,
    pub(super) queue: NonZeroUsize,
    /// The budget of all models together, which one alone must keep too.
    pub(super) memory: Option<u64>,
    /// Where text models compute.
    pub(super) placement: Placement,
    /// Whether that was asked for, and is not just what was found.
    pub(super) placement_is_chosen: bool,
}

impl Settings {
    /// Where a text model with these adapters computes. A GPU applies none, so unless it was asked for the processor does.
    fn placement(&self, path: &Path, adapters: &[AdapterSource]) -> Placement {
        if adapters.is_empty() || self.placement_is_chosen || self.placement == Placement::Processor {
            return self.placement;
        }
        tracing::info!(path = %path.display(), "a model with LoRA adapters computes on the processor");
        Placement::Processor
    }

    /// What a text model of these weights may take in all, where there is a budget: a cache of the usual size, or what the
    /// budget leaves for one.
    fn with_cache(&self, weights: u64) -> Option<u64> {
        // Weights that do not fit alone are to be refused as such.
        self.memory.map(|budget| weights.saturating_add(text::DEFAULT_CACHE).min(budget).max(weights))
    }
}

/// What is to be loaded.
pub(super) enum Plan {
    Files { task: Task, files: Files, adapters: Vec<AdapterSource> },
    Script { task: Task, script: Value },
    Remote { task: Task, remote: Remote },
}

impl Plan {
    /// What the model will take of the memory budget for as long as it is there: its weights and, where it generates text,
    /// its adapters and its cache. What requests take beside it they reserve in its [`Room`].
    pub(super) fn bytes(&self, settings: &Settings) -> u64 {
        match self {
            Plan::Files { task, files, adapters } if generates(*task, files) => {
                let weights = weights(files, adapters);
                settings.with_cache(weights).unwrap_or(weights)
            }
            Plan::Files { files, .. } => files.bytes,
            Plan::Script { .. } | Plan::Remote { .. } => 0,
        }
    }
}

/// Bytes of a text model and of all its adapters, which are loaded with it.
fn weights(files: &Files, adapters: &[AdapterSource]) -> u64 {
    adapters.iter().map(|adapter| adapter.bytes).fold(files.bytes, u64::saturating_add)
}

/// Where text models compute.
pub(super) fn place(choice: DeviceChoice) -> Result<Placement, ConfigFault> {
    device::place(choice).map_err(ConfigFault::Device)
}

/// Reads weights; takes seconds and blocks.
pub(super) fn load(plan: Plan, settings: &Settings, room: Room) -> Result<Model, AiError> {
    match plan {
        Plan::Files {
            task: task @ (Task::TextEmbeddings | Task::Rerank | Task::TextClassification | Task::TokenClassification),
            files,
            ..
        } => match files.layout {
            Layout::Safetensors(ref directory) => encoder(task, directory, &files, settings, room),
            Layout::Gguf(path) => Err(AiError::model_unavailable(format_args!(
                "{} is a GGUF file; encoders are read from a directory with config.json, tokenizer.json and \
                 model.safetensors",
                path.display()
            ))),
        },
        Plan::Files { task: task @ (Task::Translation | Task::Summarization), files, .. }
            if !generates(task, &files) =>
        {
            encoder_decoder(task, &files, settings, room)
        }
        Plan::Files { task, files, adapters } if generates(task, &files) => {
            let (Layout::Gguf(path) | Layout::Safetensors(path)) = &files.layout;
            text_generation(path, &files, adapters, settings).map(|model| tasks::prompted::as_task(model, task))
        }
        Plan::Files { task, files, .. } if vision::TASKS.contains(&task) => match files.layout {
            Layout::Safetensors(ref directory) => {
                let settings = vision::Settings { threads: settings.threads, queue: settings.queue };
                vision::open(directory, &settings, room).map_err(AiError::model_unavailable)
            }
            Layout::Gguf(path) => Err(AiError::model_unavailable(format_args!(
                "{} is a GGUF file; models of pictures are read from a directory with config.json, \
                 preprocessor_config.json and model.safetensors",
                path.display()
            ))),
        },
        Plan::Files { task: Task::AutomaticSpeechRecognition, files, .. } => speech(&files, settings, room),
        Plan::Files { task: Task::TextToSpeech, files, .. } => synthesizer(&files.layout, settings, room),
        Plan::Files { task: Task::TextToImage, files, .. } => painter(&files.layout, settings, room),
        Plan::Files { task, .. } => Err(AiError::model_unavailable(format_args!("nothing here computes {task} yet"))),
        Plan::Script { task, script } => scripted(task, &script),
        Plan::Remote { task, remote } => Ok(tasks::prompted::as_task(remote.model(), task)),
    }
}

/// Whether the files are a language model's: translation and summarization may be done by one, which is asked in a prompt.
fn generates(task: Task, files: &Files) -> bool {
    match (task, &files.layout) {
        (Task::TextGeneration, _) | (Task::Translation | Task::Summarization, Layout::Gguf(_)) => true,
        (Task::Translation | Task::Summarization, Layout::Safetensors(folder)) => {
            let config = read_config(folder).unwrap_or_default();
            !config["model_type"].as_str().is_some_and(|kind| seq2seq::config::MODEL_TYPES.contains(&kind))
        }
        _ => false,
    }
}

/// An encoder-decoder out of a folder of safetensors.
fn encoder_decoder(task: Task, files: &Files, settings: &Settings, room: Room) -> Result<Model, AiError> {
    let (Layout::Gguf(folder) | Layout::Safetensors(folder)) = &files.layout;
    let settings = seq2seq::Settings { threads: settings.threads, queue: settings.queue, context: files.context };
    let model = Arc::new(seq2seq::Seq2Seq::open(folder, &settings, room).map_err(AiError::model_unavailable)?);
    Ok(match task {
        Task::Translation => Model::Translation(model),
        _ => Model::Summarization(model),
    })
}

/// An encoder out of a folder of safetensors.
fn encoder(task: Task, directory: &Path, files: &Files, settings: &Settings, room: Room) -> Result<Model, AiError> {
    let settings = encoder::Settings {
        threads: settings.threads,
        queue: settings.queue,
        context: files.context,
        pooling: files.pooling,
    };
    let model = match task {
        Task::Rerank => encoder::Reranker::open(directory, settings, room).map(|model| Model::Rerank(Arc::new(model))),
        Task::TextClassification => encoder::TextClassifier::open(directory, settings, room)
            .map(|model| Model::TextClassification(Arc::new(model))),
        Task::TokenClassification => encoder::TokenClassifier::open(directory, settings, room)
            .map(|model| Model::TokenClassification(Arc::new(model))),
        _ => encoder::Encoder::open(directory, settings, room).map(|model| Model::TextEmbeddings(Arc::new(model))),
    };
    model.map_err(AiError::model_unavailable)
}

/// A model of speech out of a folder of safetensors.
fn speech(files: &Files, settings: &Settings, room: Room) -> Result<Model, AiError> {
    let Layout::Safetensors(directory) = &files.layout else {
        return Err(AiError::model_unavailable("speech is read from a directory of safetensors, not from GGUF"));
    };
    let settings = speech::Settings { threads: settings.threads, queue: settings.queue, precision: files.precision };
    let recognizer = speech::Recognizer::open(directory, settings, room).map_err(AiError::model_unavailable)?;
    Ok(Model::SpeechRecognition(Arc::new(recognizer)))
}

/// A model that speaks, out of a folder of safetensors.
fn synthesizer(layout: &Layout, settings: &Settings, room: Room) -> Result<Model, AiError> {
    let Layout::Safetensors(directory) = layout else {
        return Err(AiError::model_unavailable(
            "models that speak are read from a directory of safetensors, not from GGUF",
        ));
    };
    let settings = synthesis::Settings { threads: settings.threads, queue: settings.queue };
    let synthesizer = synthesis::Synthesizer::open(directory, settings, room).map_err(AiError::model_unavailable)?;
    Ok(Model::TextToSpeech(Arc::new(synthesizer)))
}

/// A model that draws, out of a folder with `model_index.json`.
fn painter(layout: &Layout, settings: &Settings, room: Room) -> Result<Model, AiError> {
    let (Layout::Gguf(path) | Layout::Safetensors(path)) = layout;
    let settings = diffusion::Settings { threads: settings.threads, queue: settings.queue };
    let painter = diffusion::Painter::open(path, settings, room).map_err(AiError::model_unavailable)?;
    Ok(Model::TextToImage(Arc::new(painter)))
}

/// A language model out of a GGUF file or a folder of safetensors.
fn text_generation(
    path: &Path,
    files: &Files,
    adapters: Vec<AdapterSource>,
    settings: &Settings,
) -> Result<Model, AiError> {
    let options = text::LoadOptions {
        threads: Some(settings.threads),
        context: files.context,
        queue: settings.queue.get(),
        memory: settings.with_cache(weights(files, &adapters)),
        placement: settings.placement(path, &adapters),
        adapters,
        speculation: files.speculate,
        ..text::LoadOptions::default()
    };
    text::load(path, options).map(Model::TextGeneration).map_err(AiError::model_unavailable)
}

/// The deterministic stand-in.
fn scripted(task: Task, script: &Value) -> Result<Model, AiError> {
    let fault = |error: mock::ScriptError| AiError::model_unavailable(error);
    Ok(match task {
        Task::TextGeneration => Model::TextGeneration(Arc::new(mock::MockText::new(script).map_err(fault)?)),
        Task::Translation | Task::Summarization => {
            let model = mock::MockText::new(script).map_err(fault)?;
            tasks::prompted::as_task(Model::TextGeneration(Arc::new(model)), task)
        }
        Task::TextEmbeddings => Model::TextEmbeddings(Arc::new(mock::MockEmbeddings::new(script).map_err(fault)?)),
        Task::Rerank => Model::Rerank(Arc::new(mock::MockRerank::new(script).map_err(fault)?)),
        Task::TextClassification | Task::TokenClassification => {
            let mock = Arc::new(mock::MockClassification::new(script).map_err(fault)?);
            if task == Task::TextClassification {
                Model::TextClassification(mock)
            } else {
                Model::TokenClassification(mock)
            }
        }
        Task::ImageClassification => {
            Model::ImageClassification(Arc::new(mock::MockImages::new(script).map_err(fault)?))
        }
        Task::ObjectDetection => Model::ObjectDetection(Arc::new(mock::MockImages::new(script).map_err(fault)?)),
        Task::ImageToText => Model::ImageToText(Arc::new(mock::MockImages::new(script).map_err(fault)?)),
        Task::ImageEmbeddings | Task::ZeroShotImageClassification => {
            Model::ImageEmbeddings(Arc::new(mock::MockImages::new(script).map_err(fault)?))
        }
        Task::AutomaticSpeechRecognition => {
            Model::SpeechRecognition(Arc::new(mock::MockSpeech::new(script).map_err(fault)?))
        }
        Task::TextToSpeech => Model::TextToSpeech(Arc::new(mock::MockVoice::new(script).map_err(fault)?)),
        Task::TextToImage => Model::TextToImage(Arc::new(mock::MockPictures::new(script).map_err(fault)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(memory: Option<u64>, placement: Placement, placement_is_chosen: bool) -> Settings {
        let one = NonZeroUsize::MIN;
        Settings { threads: one, queue: one, memory, placement, placement_is_chosen }
    }

    #[test]
    fn adapters_are_applied_on_the_processor_unless_a_gpu_was_asked_for() {
        let adapter = AdapterSource { name: "a".into(), path: "a".into(), bytes: 1 };
        let placed = |chosen, adapters: &[AdapterSource]| {
            settings(None, Placement::Cuda(0), chosen).placement(Path::new("m"), adapters)
        };
        assert_eq!(placed(false, std::slice::from_ref(&adapter)), Placement::Processor);
        assert_eq!((placed(false, &[]), placed(true, &[adapter])), (Placement::Cuda(0), Placement::Cuda(0)));
    }

    #[test]
    fn text_models_share_the_budget_with_their_caches() {
        let with_cache =
            |budget: Option<u64>, weights| settings(budget, Placement::Processor, true).with_cache(weights);
        let gib = text::DEFAULT_CACHE;
        assert_eq!(with_cache(None, 5), None);
        assert_eq!(with_cache(Some(4 * gib), gib), Some(2 * gib));
        assert_eq!(with_cache(Some(gib), gib / 2), Some(gib), "a smaller cache where no more is left");
        assert_eq!(with_cache(Some(gib), 2 * gib), Some(2 * gib), "too large, and refused for that");
    }
}
