//! A loaded model: from a folder to threads, and from a request to its answer.
//!
//! Requests wait at a [`Desk`]; the model answers one at a time, because a text's beams fill a step and its weights are read
//! once for all of them. A text longer than the model's positions is cut at them, as upstream.

use std::num::NonZeroUsize;
use std::path::Path;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::generation::Generation;
use super::languages::{self, Language};
use super::pair::Pair;
use super::search::SearchError;
use super::tokens::{self, Texts};
use super::{Transformer, config};
use crate::AiError;
use crate::backend::{Summarization, SummaryRequest, Translation, TranslationRequest};
use crate::desk::{Desk, Ticket};
use crate::room::{Room, floats};
use crate::store::{read_config, read_text};

const SETTINGS_BYTES: u64 = 1 << 20;

/// How a model runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests of a tenant that may wait.
    pub queue: NonZeroUsize,
    /// The most tokens of a text that are read; the model's positions when absent.
    pub context: Option<NonZeroUsize>,
}

/// An encoder-decoder with its threads. Dropping it ends them once their current work is done.
pub struct Seq2Seq {
    desk: Desk<Model>,
}

/// What the desk's thread owns.
struct Model {
    transformer: Transformer,
    texts: Texts,
    generation: Generation,
    /// Settings of `task_specific_params` by task.
    tasks: Map<String, Value>,
    base: Map<String, Value>,
    pair: Pair,
    context: usize,
    room: Room,
}

impl Seq2Seq {
    /// Reads the model in `folder` and starts its threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: &Settings) -> Result<Self, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each text.
    pub(crate) fn open(folder: &Path, settings: &Settings, room: Room) -> Result<Self, String> {
        let model = Model { room, ..Model::load(folder, settings)? };
        let desk = Desk::open("seq2seq", settings.queue, model);
        Ok(Self { desk: desk.map_err(|error| format!("no thread for the model: {error}"))? })
    }
}

impl Translation for Seq2Seq {
    fn translate(&self, request: TranslationRequest) -> BoxFuture<'_, Result<String, AiError>> {
        let TranslationRequest { tenant, text, source, target, deadline } = request;
        self.desk.run(tenant, deadline, move |model, ticket| model.translate(&text, source.as_deref(), &target, ticket))
    }
}

impl Summarization for Seq2Seq {
    fn summarize(&self, request: SummaryRequest) -> BoxFuture<'_, Result<String, AiError>> {
        let SummaryRequest { tenant, text, max_length, deadline } = request;
        self.desk.run(tenant, deadline, move |model, ticket| model.summarize(&text, max_length, ticket))
    }
}

impl Model {
    fn load(folder: &Path, settings: &Settings) -> Result<Self, String> {
        let value = read_config(folder).map_err(|error| error.to_string())?;
        let transformer = Transformer::load(folder, settings.threads)?;
        let Value::Object(config) = value else { return Err("config.json is no object".to_owned()) };
        let own = folder.join("generation_config.json");
        let own = if own.exists() {
            let bytes = read_text(&own, SETTINGS_BYTES).map_err(|error| error.to_string())?;
            serde_json::from_slice(&bytes).map_err(|error| format!("{} is broken: {error}", own.display()))?
        } else {
            Map::new()
        };
        let description = transformer.description();
        let (vocabulary, limit) = (description.vocabulary(), description.positions_limit);
        let fault = |error| format!("{}: {error}", folder.display());
        let generation = Generation::read(&[&own, &config], vocabulary).map_err(fault)?;
        let Some(end) = generation.ends.first().copied() else {
            return Err(fault("eos_token_id is missing".to_owned()));
        };
        let texts = Texts::load(folder, description.encoder.vocabulary, end)?;
        let pair = Pair::read(&description.architecture, &config, &tokens::settings(folder)?, &texts, end);
        let tasks = match config.get("task_specific_params") {
            Some(Value::Object(tasks)) => tasks.clone(),
            _ => Map::new(),
        };
        let base: Map<String, Value> =
            config.into_iter().chain(own.into_iter().filter(|(_, value)| !value.is_null())).collect();
        for (name, task) in tasks.iter().filter_map(|(name, task)| Some((name, task.as_object()?))) {
            Generation::read(&[task, &base], vocabulary).map_err(|error| fault(format!("{name}: {error}")))?;
        }
        let context = settings.context.map_or(limit, |context| context.get().min(limit));
        if context < 4 {
            return Err(fault(format!("a context of {context} leaves no room for a text")));
        }
        Ok(Self { transformer, texts, generation, tasks, base, pair, context, room: Room::default() })
    }

    /// The settings and the prompt's beginning of a task that the configuration names.
    fn task(&self, name: &str) -> Result<Option<(Generation, String)>, AiError> {
        let Some(Value::Object(task)) = self.tasks.get(name) else { return Ok(None) };
        let vocabulary = self.transformer.description().vocabulary();
        let generation = Generation::read(&[task, &self.base], vocabulary).map_err(AiError::model_unavailable)?;
        let prefix = config::Keys(task).text("prefix").unwrap_or_default().to_owned();
        Ok(Some((generation, prefix)))
    }

    fn translate(
        &mut self,
        text: &str,
        source: Option<&str>,
        target: &str,
        ticket: &Ticket,
    ) -> Result<String, AiError> {
        let mut generation = self.generation.clone();
        let tokens = match &self.pair {
            Pair::Prompt => {
                let of = |property: &str, asked: &str| {
                    languages::find(asked).ok_or_else(|| unknown(property, asked, languages::all()))
                };
                let (from, to) = (of("source_lang", source.unwrap_or("en"))?, of("target_lang", target)?);
                let known = self.task(&format!("translation_{}_to_{}", from.code, to.code))?;
                let general = || (self.generation.clone(), format!("translate {} to {}: ", from.name, to.name));
                let (own, prefix) = known.unwrap_or_else(general);
                generation = own;
                self.texts.encode_whole(&format!("{prefix}{text}"), self.context).map_err(unreadable)?
            }
            pair => {
                let (before, after) = pair.around(&self.texts, source, target, &mut generation)?;
                let limit = self.context.saturating_sub(before.len() + after.len());
                let mut tokens = before;
                tokens.extend(self.texts.encode(text, limit).map_err(unreadable)?);
                tokens.extend(after);
                tokens
            }
        };
        self.answer(&tokens, &generation, ticket)
    }

    fn summarize(&mut self, text: &str, max_length: usize, ticket: &Ticket) -> Result<String, AiError> {
        let general = if self.transformer.description().architecture == "t5" { "summarize: " } else { "" };
        let general = || (self.generation.clone(), general.to_owned());
        let (mut generation, prefix) = self.task("summarization")?.unwrap_or_else(general);
        generation.limit(max_length);
        let tokens = self.texts.encode_whole(&format!("{prefix}{text}"), self.context).map_err(unreadable)?;
        self.answer(&tokens, &generation, ticket)
    }

    fn answer(&mut self, tokens: &[u32], generation: &Generation, ticket: &Ticket) -> Result<String, AiError> {
        let what = format!("a text of {} tokens with {} beams", tokens.len(), generation.beams);
        let peak = floats(self.transformer.peak(tokens.len(), generation));
        let _reserved = ticket.reserve(&self.room, peak, &what)?;
        let answer = self.search(tokens, generation, ticket);
        if self.room.bounded() {
            self.transformer.forget();
        }
        answer
    }

    fn search(&mut self, tokens: &[u32], generation: &Generation, ticket: &Ticket) -> Result<String, AiError> {
        let proceed = &mut || ticket.check();
        let encoded = self.transformer.encode(tokens, proceed)?;
        let found = self.transformer.generate(&encoded, generation, proceed).map_err(|error| match error {
            SearchError::Stopped(error) => error,
            SearchError::NotFinite => {
                AiError::model_unavailable("its weights give values that are no numbers; verify the model")
            }
        })?;
        self.texts.decode(&found).map_err(|error| AiError::internal(format_args!("its answer is no text: {error}")))
    }
}

fn unreadable(error: String) -> AiError {
    AiError::bad_input(format_args!("the text cannot be read as tokens: {error}"))
}

/// 5006 for a language that is not among those.
pub(super) fn unknown(property: &str, asked: &str, known: impl Iterator<Item = Language>) -> AiError {
    const SHOWN: usize = 12;
    let known: Vec<Language> = known.collect();
    let first = ["en", "fr", "de", "es", "zh", "ja"];
    let (some, others): (Vec<Language>, Vec<Language>) = known.iter().partition(|l| first.contains(&l.code));
    let list: Vec<String> =
        some.iter().chain(&others).take(SHOWN).map(|l| format!("{} ({})", l.code, l.name)).collect();
    let more = if known.len() > SHOWN { format!(" and {} more", known.len() - SHOWN) } else { String::new() };
    let asked: String = asked.chars().filter(|c| !c.is_control()).take(40).collect();
    AiError::bad_input(format_args!(
        "'/{property}' is '{asked}', which is no language of this model; it knows {}{more}",
        list.join(", ")
    ))
}
