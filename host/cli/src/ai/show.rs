//! An answer as people read it: text as it comes, labels in columns, pictures in the terminal or in a file.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use host_inference::{ByteStream, RunOutput};
use indicatif::ProgressBar;
use serde_json::Value;

use crate::args::AiRunArgs;
use crate::exit::Done;

/// Shows `output`. `waiting` ends when the first of it is there.
pub(super) async fn output(output: RunOutput, args: &AiRunArgs, waiting: ProgressBar) -> Done {
    match output {
        RunOutput::Json(answer) => {
            waiting.finish_and_clear();
            json(&answer, args)?;
        }
        RunOutput::Stream { content_type, body } if content_type == "text/event-stream" => {
            events(body, &waiting).await?;
        }
        RunOutput::Stream { content_type, body } => {
            let bytes = whole(body).await?;
            waiting.finish_and_clear();
            file(&bytes, &content_type, args)?;
        }
    }
    Ok(())
}

async fn whole(mut body: ByteStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

/// The text of an event stream, as it comes.
async fn events(mut body: ByteStream, waiting: &ProgressBar) -> Result<()> {
    let (mut pending, mut out) = (Vec::new(), std::io::stdout());
    while let Some(part) = body.next().await {
        pending.extend_from_slice(&part?);
        while let Some(end) = pending.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = pending.drain(..end + 2).collect();
            let data = event.strip_prefix(b"data: ").unwrap_or(&event).trim_ascii();
            let Ok(said) = serde_json::from_slice::<Value>(data) else { continue };
            waiting.finish_and_clear();
            if let Some(text) = said.get("response").and_then(Value::as_str) {
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            if let Some(error) = said.get("error").and_then(Value::as_str) {
                writeln!(out)?;
                bail!("{error}");
            }
        }
    }
    writeln!(out)?;
    Ok(())
}

fn json(answer: &Value, args: &AiRunArgs) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(answer)?);
        return Ok(());
    }
    for (property, kind) in [("image", "image/jpeg"), ("audio", "audio/wav")] {
        if let Some(encoded) = answer.get(property).and_then(Value::as_str) {
            let bytes = STANDARD.decode(encoded).with_context(|| format!("the answer's {property} is no base64"))?;
            // Samples alone, where they were asked for.
            let bare = property == "audio" && !bytes.starts_with(b"RIFF");
            return file(&bytes, if bare { "audio/raw" } else { kind }, args);
        }
    }
    for property in ["response", "text", "translated_text", "summary", "description"] {
        if let Some(text) = answer.get(property).and_then(Value::as_str) {
            println!("{}", text.trim());
            return Ok(());
        }
    }
    match rows(answer) {
        Some(rows) => rows.iter().for_each(|row| println!("{row}")),
        None => println!("{}", serde_json::to_string_pretty(answer)?),
    }
    Ok(())
}

/// A line for each label or text with its score.
fn rows(answer: &Value) -> Option<Vec<String>> {
    let items = answer.as_array().or_else(|| answer.get("response")?.as_array())?;
    let row = |item: &Value| {
        let score = item.get("score")?.as_f64()?;
        let name = item.get("label").or_else(|| item.get("entity_group")).and_then(Value::as_str).map(str::to_owned);
        let name = name.or_else(|| item.get("id").map(|id| format!("text {id}")))?;
        let place = item.get("box").map_or(String::new(), |place| format!("  {place}"));
        let word = item.get("word").and_then(Value::as_str).map_or(String::new(), |word| format!("  {word}"));
        Some(format!("{score:.4}  {name}{word}{place}"))
    };
    items.iter().map(row).collect()
}

/// Saves what is no text, and shows a picture where the terminal can.
fn file(bytes: &[u8], content_type: &str, args: &AiRunArgs) -> Result<()> {
    let is_picture = content_type.starts_with("image/");
    if args.output.is_none() && is_picture && picture(bytes)? {
        return Ok(());
    }
    let path = match &args.output {
        Some(path) if path == Path::new("-") => {
            std::io::stdout().write_all(bytes)?;
            return Ok(());
        }
        Some(path) => path.clone(),
        None => free_name(&args.model, content_type)?,
    };
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// A name in this folder that nothing has yet.
fn free_name(model: &str, content_type: &str) -> Result<PathBuf> {
    let kind = content_type.split([';', '+']).next().unwrap_or_default();
    let extension = match kind.rsplit('/').next().unwrap_or_default() {
        "jpeg" => "jpg",
        "mpeg" => "mp3",
        "" => "bin",
        other => other,
    };
    let stem = model.rsplit('/').next().unwrap_or(model);
    let names = (1..1000).map(|number| match number {
        1 => PathBuf::from(format!("{stem}.{extension}")),
        _ => PathBuf::from(format!("{stem}-{number}.{extension}")),
    });
    let free = names.into_iter().find(|path| !path.exists());
    free.with_context(|| format!("this folder is full of files like {stem}.{extension}; name one with --output"))
}

/// Draws a picture in a terminal that says it can: with iTerm2's protocol, which WezTerm and others speak too, or with
/// kitty's. False where it cannot.
fn picture(bytes: &[u8]) -> Result<bool> {
    let mut out = std::io::stdout();
    if !out.is_terminal() {
        return Ok(false);
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_png = bytes.starts_with(b"\x89PNG");
    let encoded = STANDARD.encode(bytes);
    if matches!(variable("TERM_PROGRAM").as_str(), "iTerm.app" | "WezTerm") {
        writeln!(out, "\x1b]1337;File=inline=1;size={}:{encoded}\x07", bytes.len())?;
        return Ok(true);
    }
    if is_png && (variable("TERM") == "xterm-kitty" || variable("TERM_PROGRAM") == "ghostty") {
        // At most 4096 bytes at once; `m=1` says that more follow.
        let parts: Vec<&[u8]> = encoded.as_bytes().chunks(4096).collect();
        for (index, part) in parts.iter().enumerate() {
            let more = u8::from(index + 1 < parts.len());
            let control = if index == 0 { format!("a=T,f=100,m={more}") } else { format!("m={more}") };
            out.write_all(format!("\x1b_G{control};").as_bytes())?;
            out.write_all(part)?;
            out.write_all(b"\x1b\\")?;
        }
        writeln!(out)?;
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_rows() {
        let answer = json!([{ "label": "POSITIVE", "score": 0.98765 }, { "label": "NEGATIVE", "score": 0.0123 }]);
        assert_eq!(rows(&answer).unwrap(), ["0.9877  POSITIVE", "0.0123  NEGATIVE"]);
        let answer = json!({ "response": [{ "id": 2, "score": 0.5 }] });
        assert_eq!(rows(&answer).unwrap(), ["0.5000  text 2"]);
        let seen = json!([{ "label": "cat", "score": 1.0, "box": { "xmin": 1 } }]);
        assert_eq!(rows(&seen).unwrap(), ["1.0000  cat  {\"xmin\":1}"]);
        assert_eq!(rows(&json!({ "shape": [1, 2], "data": [[1, 2]] })), None);
    }

    #[test]
    fn names_of_files_say_what_they_are() {
        assert_eq!(free_name("@cf/x/no-such-model", "image/png").unwrap(), Path::new("no-such-model.png"));
        assert_eq!(free_name("no-such-model", "image/jpeg").unwrap(), Path::new("no-such-model.jpg"));
        assert_eq!(free_name("no-such-model", "audio/wav").unwrap(), Path::new("no-such-model.wav"));
    }
}
