//! The command line of `host gateway`.

use clap::{Args as ClapArgs, Subcommand};

use crate::args::ProjectArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// List the gateways of a project, with how many calls each has in its log.
    List {
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Print the log of calls, the newest last.
    #[command(after_help = "\
Examples:
  host gateway logs --follow
  host gateway logs --gateway front --status 429 --since 2h --json")]
    Logs(LogArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LogArgs {
    #[command(flatten)]
    pub(crate) project: ProjectArgs,

    /// Only calls of this gateway.
    #[arg(long, value_name = "ID")]
    pub(crate) gateway: Option<String>,

    /// Only calls of this model.
    #[arg(long)]
    pub(crate) model: Option<String>,

    /// Only calls with this status.
    #[arg(long)]
    pub(crate) status: Option<u16>,

    /// Only calls since so long ago, as in 30s, 15m, 2h or 7d.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// At most so many calls to begin with.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub(crate) last: usize,

    /// Go on with calls as they are logged.
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}
