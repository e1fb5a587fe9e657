//! The command line.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use host_inference::store::HubEndpoint;

/// Serves WebAssembly components as HTTP workers, with inference on this machine.
#[derive(Debug, Parser)]
#[command(name = "host", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to log: a level (error, warn, info, debug, trace) or directives such as `info,access=debug`. [default: info; warn for `host ai`]
    #[arg(long, global = true, env = "HOST_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  host new my-chat                    start a project
  host serve                          serve the binding file of this folder
  host serve -c a.toml -c b.toml      serve the workers of two files
  host dev                            the same, rebuilt whenever its sources change
  host check --env staging            say what is wrong with a binding file
  host models pull bge-small-en-v1.5  fetch a model
  host ai run smollm2-135m-instruct --prompt 'Why is the sky blue?'
  host completions bash > host.bash   shell completions";

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the workers of a binding file.
    #[command(after_help = "\
Examples:
  host serve
  host serve --port 9000 --var GREETING=hello
  host serve -c examples/chat/wrangler.toml --env staging
A worker answers at http://NAME.localhost:PORT/ and on its routes; a sole worker answers everything.")]
    Serve(ServeArgs),

    /// Serve the workers of a binding file, and swap them when their sources change.
    #[command(after_help = "\
Examples:
  host dev
  host dev --port 9000 --var GREETING=hello
  host dev --test-scheduled
A version that cannot be built leaves the one before it serving; requests under way end with what they began with.")]
    Dev(DevArgs),

    /// Check binding files and their components without serving them.
    #[command(after_help = "\
Examples:
  host check
  host check -c wrangler.jsonc --json
Exits 0 when all is well and 64 when something is wrong, after listing every fault with its place.")]
    Check(CheckArgs),

    /// Start a project.
    #[command(after_help = "\
Examples:
  host new my-chat                                a chat in TypeScript
  host new my-notes --template rag
  host new workers/hello --template hello --lang js
  host new my-chat --template rust-chat
  host new --list                                 the templates")]
    New(NewArgs),

    /// Build the scripts of a project without serving them.
    #[command(after_help = "\
Examples:
  host build
  host build my-chat --minify
  host build -c wrangler.jsonc --json
What has not changed since the last build is not built again. Serving builds what it needs by itself.
Exits 64 when a script cannot be built, after printing every fault with its place.")]
    Build(BuildArgs),

    /// Manage the models on this machine.
    #[command(subcommand)]
    Models(ModelsCommand),

    /// Ask a model from the terminal.
    #[command(subcommand)]
    Ai(AiCommand),

    /// Look into queues, send to them, empty them.
    #[command(subcommand)]
    Queues(crate::queues::QueuesCommand),

    /// Manage vector indexes, which workers bind with `[[vectorize]]`.
    #[command(subcommand)]
    Vectorize(crate::vectorize::VectorizeCommand),

    /// Back up, restore and check what workers keep.
    #[command(subcommand)]
    State(crate::state::StateCommand),

    /// Look at gateways and their log.
    #[command(subcommand)]
    Gateway(crate::gateway::GatewayCommand),

    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which binding files to read, and how.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ProjectArgs {
    /// A binding file; several are served together. [default: wrangler-like.toml, wrangler.toml, wrangler.jsonc or wrangler.json of this folder]
    #[arg(short, long = "config", value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,

    /// The environment: the tables under `[env.NAME]`.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) env: Option<String>,

    /// A variable for every worker; may be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) var: Vec<(String, String)>,

    /// Where vectors, queues and other state are kept. [default: .host/state beside the binding file]
    #[arg(long, value_name = "DIRECTORY", env = "HOST_STATE_DIR")]
    pub(crate) persist_to: Option<PathBuf>,
}

/// Where state lies, for commands that need nothing else of a project.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct StateArgs {
    /// The binding file beside which the state lies. [default: that of this folder]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Where the state lies. [default: .host/state beside the binding file]
    #[arg(long, value_name = "DIRECTORY", env = "HOST_STATE_DIR")]
    pub(crate) persist_to: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) project: ProjectArgs,

    /// The port to listen on; 0 takes a free one. [default: dev.port, else 8787]
    #[arg(short, long)]
    pub(crate) port: Option<u16>,

    /// The address to listen on: an IP address, `localhost`, or `*` for all. [default: dev.ip, else localhost]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,

    /// Seconds that requests under way may take after a signal to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) grace: u64,

    /// Load the models that the workers' aliases name before serving.
    #[arg(long)]
    pub(crate) warm: bool,

    /// First fetch the models that the aliases name and that are not on this machine.
    #[arg(long)]
    pub(crate) pull: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NewArgs {
    /// The project's name, or a path that ends with it; its folder must not exist, or be empty.
    #[arg(value_name = "NAME", required_unless_present = "list")]
    pub(crate) name: Option<PathBuf>,

    /// What to start from; `--list` shows what there is. [default: chat]
    #[arg(short, long)]
    pub(crate) template: Option<String>,

    /// The language. [default: ts, where the template has it]
    #[arg(short, long, value_enum)]
    pub(crate) lang: Option<Lang>,

    /// Where a project in Rust finds the SDK: the folder `guest-sdk/rust` of a checkout of host.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) sdk: Option<PathBuf>,

    /// List the templates.
    #[arg(long)]
    pub(crate) list: bool,
}

/// A language that workers are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    /// TypeScript.
    #[value(alias = "typescript")]
    Ts,
    /// JavaScript.
    #[value(alias = "javascript")]
    Js,
    /// Rust.
    Rust,
}

impl Lang {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Lang::Ts => "ts",
            Lang::Js => "js",
            Lang::Rust => "rust",
        }
    }

    /// As in a sentence.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Lang::Ts => "TypeScript",
            Lang::Js => "JavaScript",
            Lang::Rust => "Rust",
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BuildArgs {
    /// The project's folder. [default: this folder]
    #[arg(value_name = "DIR", conflicts_with = "config")]
    pub(crate) directory: Option<PathBuf>,

    /// A binding file; may be given again. [default: that of the project's folder]
    #[arg(short, long = "config", value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,

    /// The environment: the tables under `[env.NAME]`.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) env: Option<String>,

    /// Make the scripts small.
    #[arg(long)]
    pub(crate) minify: bool,

    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(crate) project: ProjectArgs,

    /// The port to listen on; 0 takes a free one. [default: dev.port, else 8787]
    #[arg(short, long)]
    pub(crate) port: Option<u16>,

    /// The address to listen on: an IP address, `localhost`, or `*` for all. [default: dev.ip, else localhost]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,

    /// First fetch the models that the aliases name and that are not on this machine.
    #[arg(long)]
    pub(crate) pull: bool,

    /// Call a worker's `scheduled` handler at /__scheduled?cron=*+*+*+*+* and /cdn-cgi/handler/scheduled.
    #[arg(long)]
    pub(crate) test_scheduled: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) project: ProjectArgs,

    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AiCommand {
    /// Have a model answer.
    #[command(after_help = "\
Examples:
  host ai run smollm2-135m-instruct --prompt 'Why is the sky blue?' --set max_tokens=60
  host ai run smollm2-135m-instruct --system 'Answer in one word.' --prompt @question.txt
  host ai run bge-small-en-v1.5 --text 'cold start' --text 'warm start' --json
  host ai run my-whisper --audio speech.mp3
  host ai run my-voice --prompt 'Good morning.' --output - | aplay
  host ai run my-classifier --image cat.jpg
A value of --prompt, --system, --text or --input that begins with @ names a file; - is standard input.")]
    Run(AiRunArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AiRunArgs {
    /// A model's name or alias (`host models list`).
    pub(crate) model: String,

    /// What to say to the model; the query, for a reranker.
    #[arg(short, long)]
    pub(crate) prompt: Option<String>,

    /// What it should know before, for a model that generates text.
    #[arg(long)]
    pub(crate) system: Option<String>,

    /// A text to work on; may be given again where the task takes several.
    #[arg(short, long)]
    pub(crate) text: Vec<String>,

    /// A file with sound.
    #[arg(long, value_name = "FILE")]
    pub(crate) audio: Option<PathBuf>,

    /// A file with a picture.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,

    /// More inputs, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) input: Option<String>,

    /// One more input; the value is JSON, or a text if it is not. May be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,

    /// Where to save a picture or a sound; - is standard output. [default: a new file in this folder]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Print the answer as one JSON document.
    #[arg(long)]
    pub(crate) json: bool,

    /// First fetch the model if it is not on this machine.
    #[arg(long)]
    pub(crate) pull: bool,

    #[command(flatten)]
    pub(crate) project: ProjectArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models that this machine has or can fetch.
    #[command(after_help = "\
Examples:
  host models list --installed
  host models list --task text-embeddings --json
  host models list --licence apache")]
    List {
        #[command(flatten)]
        project: ProjectArgs,
        /// Only those that do this task.
        #[arg(long)]
        task: Option<String>,
        /// Only those whose licence has this in its name, in either case.
        #[arg(long)]
        licence: Option<String>,
        /// Only those on this machine.
        #[arg(long)]
        installed: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what is known of a model.
    #[command(after_help = "\
Examples:
  host models info whisper-tiny.en
  host models info @cf/meta/llama-3.1-8b-instruct --json")]
    Info {
        /// A name of `host models list`.
        #[arg(value_name = "MODEL")]
        model: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch models: by a name of the catalogue, or from a hub repository.
    #[command(after_help = "\
Examples:
  host models pull smollm2-135m-instruct
  host models pull @cf/baai/bge-base-en-v1.5
  host models pull hf:OWNER/REPOSITORY --as my-model
  host models pull hf:OWNER/REPOSITORY/FILE.gguf --as my-model
HF_TOKEN opens gated repositories, HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 forbids all of them.
What has arrived of an interrupted pull is used by the next one.")]
    Pull {
        /// Names of the catalogue (`host models list`), or one `hf:OWNER/REPOSITORY[@REVISION][/FILE]`.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
        /// The name to give a model of a hub repository.
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Connections to a hub that a large file comes over, 1 to 16.
        #[arg(long, value_name = "COUNT", env = "HOST_PULL_CONNECTIONS", default_value_t = HubEndpoint::CONNECTIONS, value_parser = connections)]
        connections: NonZeroUsize,
    },
    /// Put weights of your own into the store.
    #[command(after_help = "\
Examples:
  host models import my-model ./my-model.Q4_0.gguf
  host models import my-encoder ./my-encoder --task text-embeddings
  host models import whisper-base ./ggml-base.bin
  host models import whisper-small ./faster-whisper-small")]
    Import {
        /// The name that workers will use.
        name: String,
        /// A GGUF file, or a folder with config.json, tokenizer.json and model.safetensors. Converted on the way: Whisper of
        /// whisper.cpp (ggml-….bin), of CTranslate2 (model.bin) and in GGUF, and encoders in ONNX, floats or int8.
        path: PathBuf,
        /// What it does; found from its files when absent.
        #[arg(long)]
        task: Option<String>,
    },
    /// Compare the files of installed models with their sums.
    Verify {
        /// Names; all when absent.
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
    },
    /// Remove models from this machine.
    Remove {
        /// Names.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
    },
}

fn connections(text: &str) -> Result<NonZeroUsize, String> {
    let most = HubEndpoint::MAX_CONNECTIONS;
    let count = text.parse().ok().filter(|count| *count <= most);
    count.ok_or_else(|| format!("{text:?} is no number from 1 to {most}"))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// Which addresses a name to listen on stands for.
pub(crate) fn listen_addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    match name {
        "localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        "*" => Ok(vec![Ipv4Addr::UNSPECIFIED.into()]),
        _ => match name.trim_matches(['[', ']']).parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => Err(format!("cannot listen on {name:?}: neither an IP address nor `localhost` nor `*`")),
        },
    }
}
