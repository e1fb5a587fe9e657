//! Exit codes, as `sysexits.h` names them: scripts tell a broken binding file from a taken port.

use std::fmt;
use std::process::ExitCode;

/// A failed command with its exit code.
#[derive(Debug)]
pub(crate) struct Failed {
    code: u8,
    error: anyhow::Error,
    silent: bool,
}

/// What a command gives.
pub(crate) type Done = Result<(), Failed>;

/// `EX_USAGE`: the binding file or the command line is wrong.
const USAGE: u8 = 64;

impl Failed {
    /// The user's files or arguments are wrong.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: USAGE, error: error.into(), silent: false }
    }

    /// The same failure, whose message has been given elsewhere.
    pub(crate) fn silent(self) -> Self {
        Self { silent: true, ..self }
    }

    /// Says what went wrong, where that does not end the command.
    pub(crate) fn print(&self) {
        eprintln!("{}", Message(&self.error));
    }

    pub(crate) fn error(&self) -> &anyhow::Error {
        &self.error
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { code: 1, error: error.into(), silent: false }
    }
}

/// Messages already carry their place and help; a list of them is printed as it is.
struct Message<'a>(&'a anyhow::Error);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref::<host_config::Faults>() {
            Some(faults) => {
                let count = faults.0.len();
                write!(f, "{faults}\n\n{count} {}", if count == 1 { "fault" } else { "faults" })
            }
            None => write!(f, "error: {:#}", self.0),
        }
    }
}

/// Prints what went wrong, if anything did.
pub(crate) fn code(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if !failed.silent {
                failed.print();
            }
            ExitCode::from(failed.code)
        }
    }
}
