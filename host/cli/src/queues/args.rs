//! The command line of `host queues`.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use crate::args::ProjectArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum QueuesCommand {
    /// List the queues of a project.
    List {
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what a queue holds.
    Info {
        /// The queue's name.
        queue: String,
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send messages.
    #[command(after_help = "\
Examples:
  host queues send jobs --body '{\"page\": 7}'
  host queues send jobs --content-type bytes < picture.png
  host queues send jobs --lines < jobs.ndjson
A host that serves the project delivers them; one that starts later does it then.")]
    Send(QueueSendArgs),
    /// Print the oldest messages of a queue, one JSON object a line. They stay in it.
    Peek {
        /// The queue's name.
        queue: String,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 10)]
        count: u16,
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Remove all messages of a queue.
    Purge {
        /// The queue's name.
        queue: String,
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Deliver no messages of a queue until it is resumed. Sending goes on.
    Pause {
        /// The queue's name.
        queue: String,
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Deliver messages of a paused queue again.
    Resume {
        /// The queue's name.
        queue: String,
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QueueSendArgs {
    /// The queue's name.
    pub(crate) queue: String,

    /// The message. [default: standard input]
    #[arg(short, long)]
    pub(crate) body: Option<String>,

    /// Send each line of standard input as a message.
    #[arg(long, conflicts_with = "body")]
    pub(crate) lines: bool,

    /// What a message is.
    #[arg(short = 't', long, value_enum, default_value_t = QueueContentType::Json)]
    pub(crate) content_type: QueueContentType,

    /// Seconds before it is delivered, up to 43200.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=43_200))]
    pub(crate) delay: u32,

    #[command(flatten)]
    pub(crate) project: ProjectArgs,

    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueueContentType {
    /// JSON.
    Json,
    /// A text.
    Text,
    /// Anything.
    Bytes,
}
