//! `host queues`: looks into the queues of a project, sends to them and empties them, beside a host that serves or without
//! one: the files are the same.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Read as _, Write as _};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host_config::{Binding, Project};
use host_queues::{
    ContentType, Info, MAX_BATCH, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, NewMessage, Peeked, Queue, Queues,
};
use host_state::Directory;
use serde_json::{Value, json};

use crate::args::ProjectArgs;
use crate::exit::{Done, Failed};
use crate::prepare;

mod args;

pub(crate) use args::QueuesCommand;
use args::{QueueContentType, QueueSendArgs};

/// Runs one of the `host queues` commands.
pub(crate) fn run(command: QueuesCommand) -> Done {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        match command {
            QueuesCommand::List { project, json } => list(&Place::open(&project)?, json).await,
            QueuesCommand::Info { queue, project, json } => info(&Place::open(&project)?, &queue, json).await,
            QueuesCommand::Send(args) => send(&args).await,
            QueuesCommand::Peek { queue, count, project } => {
                peek(&Place::open(&project)?.existing(&queue)?, count.into()).await
            }
            QueuesCommand::Purge { queue, project, json } => {
                let purged = Place::open(&project)?.existing(&queue)?.purge().await?;
                say(json, json!({ "queue": queue, "purged": purged }), &format!("removed {purged} messages of {queue}"))
            }
            QueuesCommand::Pause { queue, project, json } => pause(&Place::open(&project)?, &queue, true, json).await,
            QueuesCommand::Resume { queue, project, json } => pause(&Place::open(&project)?, &queue, false, json).await,
        }
    })
}

/// Where queues lie, and which the binding files name.
struct Place {
    directory: Directory,
    queues: Queues,
    named: BTreeSet<String>,
}

impl Place {
    /// The project's, or what `--persist-to` names, which needs no project.
    fn open(args: &ProjectArgs) -> Result<Self, Failed> {
        let (directory, named) = match (&args.persist_to, args.config.as_slice()) {
            (Some(directory), []) => {
                // A project that is here says which queues there are; none has to be.
                let named = prepare::load(args).map(|project| named(&project));
                (Directory::new(directory), named.unwrap_or_default())
            }
            _ => {
                let project = prepare::load(args)?;
                (prepare::resources(args, &project).state().clone(), named(&project))
            }
        };
        Ok(Self { queues: Queues::new(directory.clone()), directory, named })
    }

    fn names(&self) -> Result<BTreeSet<String>, Failed> {
        Ok(self.queues.names()?.into_iter().collect())
    }

    /// A queue that has a file: a name that is mistyped makes none.
    fn existing(&self, name: &str) -> Result<Queue, Failed> {
        let queue = self.queues.queue(name).map_err(Failed::usage)?;
        let names = self.names()?;
        if names.contains(name) || self.named.contains(name) {
            return Ok(queue);
        }
        let known = names.union(&self.named).map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "there are none".to_owned() } else { format!("there are {known}") };
        let place = self.directory.path().display();
        Err(Failed::usage(anyhow!("there is no queue {name:?} in {place}; {known}")))
    }
}

fn named(project: &Project) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for worker in &project.workers {
        named.extend(worker.bindings.values().filter_map(|binding| match binding {
            Binding::Queue { queue, .. } => Some(queue.clone()),
            _ => None,
        }));
        named.extend(worker.consumers.iter().map(|consumer| consumer.queue.clone()));
        named.extend(worker.consumers.iter().filter_map(|consumer| consumer.dead_letter_queue.clone()));
    }
    named
}

fn say(as_json: bool, json: Value, text: &str) -> Done {
    println!("{}", if as_json { json.to_string() } else { text.to_owned() });
    Ok(())
}

async fn list(place: &Place, json: bool) -> Done {
    let here = place.names()?;
    let mut rows = Vec::new();
    for name in here.union(&place.named) {
        // One that has no file yet is not given one for being looked at.
        let info = match here.contains(name) {
            true => Some(place.queues.queue(name)?.info().await?),
            false => None,
        };
        rows.push((name.as_str(), info));
    }
    if json {
        let rows: Vec<Value> = rows.iter().map(|(name, info)| with_name(name, info.as_ref())).collect();
        println!("{}", Value::from(rows));
        return Ok(());
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, info) in rows {
        match info {
            Some(info) => {
                let paused = if info.paused { ", paused" } else { "" };
                println!("{name:width$}  {} messages, {} bytes{paused}", info.messages, info.bytes);
            }
            None => println!("{name:width$}  nothing was sent yet"),
        }
    }
    println!("\nin {}", place.directory.path().display());
    Ok(())
}

fn with_name(name: &str, info: Option<&Info>) -> Value {
    let mut row = json!({ "queue": name });
    if let (Some(row), Ok(Value::Object(info))) = (row.as_object_mut(), serde_json::to_value(info)) {
        row.extend(info);
    }
    row
}

async fn info(place: &Place, name: &str, json: bool) -> Done {
    let info = place.existing(name)?.info().await?;
    if json {
        println!("{}", with_name(name, Some(&info)));
        return Ok(());
    }
    let Info { messages, bytes, ready, delayed, leased, paused, dead_lettered, dropped, expired, .. } = info;
    println!("{name}{}", if paused { " (delivery is paused)" } else { "" });
    println!("  {messages} messages, {bytes} bytes: {ready} wait, {delayed} are held back, {leased} are being handled");
    println!("  ever: {dead_lettered} passed on to a dead-letter queue, {dropped} dropped, {expired} grew too old");
    Ok(())
}

async fn pause(place: &Place, name: &str, paused: bool, json: bool) -> Done {
    place.existing(name)?.set_paused(paused).await?;
    let text = if paused { "delivery is paused" } else { "delivery goes on" };
    say(json, json!({ "queue": name, "paused": paused }), &format!("{name}: {text}"))
}

/// A message a line, as JSON.
async fn peek(queue: &Queue, count: usize) -> Done {
    let mut output = std::io::stdout().lock();
    for Peeked { id, sent_ms, attempts, place, content_type, body } in queue.peek(count).await? {
        let body = match content_type {
            ContentType::Json => serde_json::from_slice(&body).unwrap_or(Value::Null),
            ContentType::Text => String::from_utf8_lossy(&body).into(),
            _ => STANDARD.encode(&body).into(),
        };
        let line = json!({
            "id": id, "timestamp": sent_ms, "attempts": attempts, "state": place, "contentType": content_type, "body": body,
        });
        // Whoever reads may have seen enough.
        if writeln!(output, "{line}").is_err() {
            break;
        }
    }
    Ok(())
}

async fn send(args: &QueueSendArgs) -> Done {
    let queue = Place::open(&args.project)?.queues.queue(&args.queue).map_err(Failed::usage)?;
    let mut sender = Sender { queue, waiting: Vec::new(), bytes: 0, sent: 0 };
    let read = |what: std::io::Result<()>| what.context("standard input cannot be read");
    match &args.body {
        Some(body) => sender.add(message(args, body.clone().into_bytes())?).await?,
        None if args.lines => {
            let mut input = std::io::stdin().lock();
            loop {
                let mut line = Vec::new();
                // A line that is too long for a message is not read to its end.
                let most = MAX_MESSAGE_BYTES as u64 + 3;
                read(input.by_ref().take(most).read_until(b'\n', &mut line).map(drop))?;
                if line.is_empty() {
                    break;
                }
                while matches!(line.last(), Some(b'\n' | b'\r')) {
                    line.pop();
                }
                if !line.is_empty() {
                    let at = sender.sent + sender.waiting.len() + 1;
                    let made = message(args, line).with_context(|| format!("message {at}"))?;
                    sender.add(made).await?;
                }
            }
        }
        None => {
            let mut body = Vec::new();
            read(std::io::stdin().lock().take(MAX_MESSAGE_BYTES as u64 + 1).read_to_end(&mut body).map(drop))?;
            sender.add(message(args, body)?).await?;
        }
    }
    sender.flush().await?;
    let (name, sent) = (&args.queue, sender.sent);
    say(args.json, json!({ "queue": name, "sent": sent }), &format!("sent {sent} messages to {name}"))
}

fn message(args: &QueueSendArgs, body: Vec<u8>) -> anyhow::Result<NewMessage> {
    if body.len() > MAX_MESSAGE_BYTES {
        bail!("the message is longer than {MAX_MESSAGE_BYTES} bytes");
    }
    let content_type = match args.content_type {
        QueueContentType::Json => {
            serde_json::from_slice::<serde::de::IgnoredAny>(&body)
                .context("the body is no JSON; send it with --content-type text if it is meant to be none")?;
            ContentType::Json
        }
        QueueContentType::Text => {
            std::str::from_utf8(&body).context("the body is no text; send it with --content-type bytes")?;
            ContentType::Text
        }
        QueueContentType::Bytes => ContentType::Bytes,
    };
    Ok(NewMessage { body, content_type, delay: args.delay })
}

/// Sends messages in batches that a queue takes.
struct Sender {
    queue: Queue,
    waiting: Vec<NewMessage>,
    bytes: usize,
    sent: usize,
}

impl Sender {
    async fn add(&mut self, message: NewMessage) -> anyhow::Result<()> {
        if self.waiting.len() == MAX_BATCH || self.bytes + message.body.len() > MAX_BATCH_BYTES {
            self.flush().await?;
        }
        self.bytes += message.body.len();
        self.waiting.push(message);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let messages = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        if messages.is_empty() {
            return Ok(());
        }
        let count = messages.len();
        self.queue.send(messages).await.with_context(|| format!("{} messages were sent before", self.sent))?;
        self.sent += count;
        Ok(())
    }
}
