//! From options to the inputs of a task.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use host_inference::{Attachment, Task};
use serde_json::{Map, Value, json};

use crate::args::AiRunArgs;

/// The inputs for a model of `task`, and the files beside them.
pub(super) fn of(task: Task, args: &AiRunArgs) -> Result<(Map<String, Value>, Vec<Attachment>)> {
    let mut inputs = Map::new();
    let prompt = args.prompt.as_deref().map(text).transpose()?;
    let texts = args.text.iter().map(|given| text(given)).collect::<Result<Vec<_>>>()?;
    spoken(task, args, prompt, texts, &mut inputs)?;
    if let Some(given) = &args.input {
        match serde_json::from_str(&text(given)?).context("--input is no JSON")? {
            Value::Object(given) => inputs.extend(given),
            _ => bail!("--input must be a JSON object such as {{\"max_tokens\": 40}}"),
        }
    }
    for (key, value) in &args.set {
        inputs.insert(key.clone(), serde_json::from_str(value).unwrap_or_else(|_| value.clone().into()));
    }
    let files = [("audio", &args.audio), ("image", &args.image)];
    let files = files.into_iter().filter_map(|(property, path)| Some((property, path.as_ref()?)));
    let attachments = files.map(|(property, path)| attachment(property, path)).collect::<Result<_>>()?;
    Ok((inputs, attachments))
}

/// What was written, under the names that the task has for it.
fn spoken(
    task: Task,
    args: &AiRunArgs,
    prompt: Option<String>,
    mut texts: Vec<String>,
    inputs: &mut Map<String, Value>,
) -> Result<()> {
    match task {
        Task::TextEmbeddings => {
            texts.extend(prompt);
            if !texts.is_empty() {
                inputs.insert("text".into(), json!(texts));
            }
            return Ok(());
        }
        Task::Rerank => {
            inputs.extend(prompt.map(|query| ("query".to_owned(), query.into())));
            let contexts: Vec<_> = texts.into_iter().map(|text| json!({ "text": text })).collect();
            inputs.insert("contexts".into(), contexts.into());
            return Ok(());
        }
        _ => {}
    }
    if texts.len() > 1 {
        bail!("a model for {task} takes one --text");
    }
    let Some(said) = prompt.or_else(|| texts.pop()) else { return Ok(()) };
    if let (Task::TextGeneration, Some(system)) = (task, &args.system) {
        let messages = json!([{ "role": "system", "content": text(system)? }, { "role": "user", "content": said }]);
        inputs.insert("messages".into(), messages);
        return Ok(());
    }
    let property = match task {
        Task::TextClassification | Task::Translation => "text",
        Task::Summarization => "input_text",
        Task::AutomaticSpeechRecognition => "initial_prompt",
        _ => "prompt",
    };
    inputs.insert(property.into(), said.into());
    Ok(())
}

/// What an option says: itself, the file behind `@`, or standard input for `-`.
fn text(given: &str) -> Result<String> {
    if given == "-" {
        let mut read = String::new();
        std::io::stdin().read_to_string(&mut read).context("cannot read standard input")?;
        return Ok(read);
    }
    match given.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}")),
        None => Ok(given.to_owned()),
    }
}

fn attachment(property: &str, path: &Path) -> Result<Attachment> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Attachment { property: property.to_owned(), content_type: None, data: data.into() })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{AiCommand, Args, Command};

    fn inputs(task: Task, options: &[&str]) -> Result<Value> {
        let arguments = ["host", "ai", "run", "m"].iter().chain(options);
        let Command::Ai(AiCommand::Run(args)) = Args::parse_from(arguments).command else { panic!("host ai run") };
        of(task, &args).map(|(inputs, _)| inputs.into())
    }

    #[test]
    fn words_go_where_the_task_has_them() {
        for (task, options, expected) in [
            (Task::TextGeneration, &["--prompt", "a"][..], json!({ "prompt": "a" })),
            (Task::TextGeneration, &["--text", "a"], json!({ "prompt": "a" })),
            (
                Task::TextGeneration,
                &["--prompt", "a", "--system", "b", "--set", "max_tokens=3", "--set", "lora=x"],
                json!({
                    "messages": [{ "role": "system", "content": "b" }, { "role": "user", "content": "a" }],
                    "max_tokens": 3,
                    "lora": "x",
                }),
            ),
            (Task::TextEmbeddings, &["--text", "a", "--text", "b"], json!({ "text": ["a", "b"] })),
            (Task::Rerank, &["--prompt", "q", "--text", "a"], json!({ "query": "q", "contexts": [{ "text": "a" }] })),
            (Task::Summarization, &["--text", "a"], json!({ "input_text": "a" })),
            (Task::TextToSpeech, &["--text", "a", "--set", "seed=7"], json!({ "prompt": "a", "seed": 7 })),
            (
                Task::Translation,
                &["--text", "a", "--input", r#"{"target_lang": "fr"}"#],
                json!({ "text": "a", "target_lang": "fr" }),
            ),
        ] {
            assert_eq!(inputs(task, options).unwrap(), expected, "{options:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for options in [&["--text", "a", "--text", "b"][..], &["--input", "[]"], &["--input", "{"]] {
            assert!(inputs(Task::Translation, options).is_err(), "{options:?}");
        }
        assert!(
            inputs(Task::TextGeneration, &["--prompt", "@no/such/file"]).unwrap_err().to_string().contains("no/such")
        );
    }
}
