//! A worker as the rest of the host sees it: nothing here can be wrong any more.
//!
//! The binding file is the whole of what a worker is granted. What is not in [`Worker::bindings`] does not exist for
//! it, and a limit that the file does not mention has its default; none can be left out.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::assets::Assets;
use crate::cron::Cron;
use crate::explain::Home;
use crate::names::WorkerName;
use crate::outbound::Outbound;
use crate::queues::QueueConsumer;
use crate::route::Route;

/// A worker of the project.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worker {
    /// Its name, unique in the project, under which it answers at `http://<name>.localhost`. Key `name`; in an
    /// environment that sets none, `<name>-<environment>`.
    pub name: WorkerName,
    /// The program; none for a worker of assets alone, which then has some. Key `main`.
    pub main: Option<Main>,
    /// The binding file that describes it, absolute.
    pub file: PathBuf,
    /// What it answers besides its own host name, in the order of the file. Keys `routes` and `route`.
    pub routes: Vec<Route>,
    /// The day whose behaviour it was written for. Key `compatibility_date`.
    pub compatibility_date: Option<CompatibilityDate>,
    /// Single changes of behaviour. Key `compatibility_flags`.
    pub compatibility_flags: Vec<String>,
    /// Whether an instance answers one request or many; none for what its kind of component is made for. Key
    /// `instances`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<Instances>,
    /// Everything in its environment, of any kind, by name.
    pub bindings: BTreeMap<String, Binding>,
    /// What it may use. Key `limits`.
    pub limits: Limits,
    /// What it may connect to. Key `outbound`.
    pub outbound: Outbound,
    /// Its static files. Key `assets`.
    pub assets: Option<Assets>,
    /// The queues that it handles messages of. Key `queues.consumers`.
    pub consumers: Vec<QueueConsumer>,
    /// When its `scheduled` handler runs. Key `triggers.crons`.
    pub crons: Vec<Cron>,
    /// Where in its file more would be granted.
    #[serde(skip)]
    pub(crate) home: Home,
}

/// The program of a worker. Its file is absolute and was there when the project was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Main {
    /// A WebAssembly component, a `.wasm` file.
    Component(PathBuf),
    /// A program in JavaScript or TypeScript, by its file's ending.
    Script(PathBuf),
    /// A package in Rust that makes a component, a `Cargo.toml`.
    Cargo(PathBuf),
}

impl Main {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Main::Component(path) | Main::Script(path) | Main::Cargo(path) => path,
        }
    }
}

/// How long an instance of a worker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instances {
    /// One request: requests share nothing.
    Fresh,
    /// Many requests, one after the other: what the worker keeps in globals is there for the next.
    Reuse,
}

/// One entry of a worker's environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Binding {
    /// A variable that is a string: of `[vars]`, or of `--var`.
    Text(String),
    /// A variable of `[vars]` that is anything else.
    Json(serde_json::Value),
    /// A line of the secrets file.
    Secret(Secret),
    /// `[ai]`.
    Ai(AiGrant),
    /// `[assets]` with a `binding`: the files of [`Worker::assets`].
    Assets,
    /// `[[services]]`.
    Service {
        /// The name of the worker to call. The project need not have it.
        service: String,
        /// The entrypoint to call, which is read and not acted on.
        #[serde(skip_serializing_if = "Option::is_none")]
        entrypoint: Option<String>,
    },
    /// `[[queues.producers]]`.
    Queue {
        /// The queue to send to.
        queue: String,
        /// Seconds before a message is delivered, unless it says otherwise. Key `delivery_delay`, default 0.
        delivery_delay: u32,
    },
    /// `[[vectorize]]`.
    Vectorize {
        /// The index's name, which can name a file. Key `index_name`.
        index: String,
        /// What to create it as if it is not there. Keys `dimensions` and `metric` (the host's own).
        #[serde(skip_serializing_if = "Option::is_none")]
        create: Option<VectorIndex>,
    },
    /// A binding that is read, so that its name is taken, and that this version does not serve.
    Other {
        /// The section of the binding file, as in `kv_namespaces`.
        section: &'static str,
    },
}

/// What a vector index is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorIndex {
    /// Numbers of each vector, 1 to 1536.
    pub dimensions: u32,
    /// How vectors are compared: cosine, euclidean or dot-product; cosine where the file does not say.
    pub metric: String,
}

/// What a worker may do through its AI binding.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct AiGrant {
    /// The only models it may run, by the names it uses; all if none. Key `models` of `[ai]`.
    pub models: Option<Vec<String>>,
    /// The only adapters it may use; all if none. Key `loras` of `[ai]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loras: Option<Vec<String>>,
}

impl AiGrant {
    /// Whether the worker may run the model of this name.
    pub fn allows(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// Whether the worker may use the adapter of this name.
    pub fn allows_lora(&self, lora: &str) -> bool {
        self.loras.as_ref().is_none_or(|loras| loras.iter().any(|name| name == lora))
    }
}

/// A secret value. Neither `Debug` nor serialization shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(value: String) -> Self {
        Secret(value)
    }

    /// The value, for the worker it was given to and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// `[limits]`: what one worker may use. Every limit is always on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// CPU time of one request. Key `cpu_ms`, default 30 s.
    #[serde(rename = "cpu_ms", serialize_with = "milliseconds")]
    pub cpu: Duration,
    /// Time of one request from its first byte to the end of its response. Key `wall_ms`, default 300 s.
    #[serde(rename = "wall_ms", serialize_with = "milliseconds")]
    pub wall: Duration,
    /// Memory of one instance in bytes, summed over its memories. Key `memory_mb` in MiB, default 128 MiB.
    pub memory_bytes: usize,
    /// Requests that one worker serves at the same time. Key `concurrency`, default 256.
    pub concurrency: NonZeroUsize,
    /// Body of a request in bytes. Key `request_mb` in MiB, default 100 MiB.
    pub request_bytes: u64,
    /// Body of a response in bytes. Key `response_mb` in MiB, default 1 GiB.
    pub response_bytes: u64,
    /// Outbound requests and calls of bindings that one request may make. Key `subrequests`, default 1000.
    pub subrequests: u32,
    /// Log output of one request in bytes. Key `log_kb` in KiB, default 256 KiB.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(300),
            memory_bytes: 128 << 20,
            concurrency: NonZeroUsize::MIN.saturating_add(255),
            request_bytes: 100 << 20,
            response_bytes: 1 << 30,
            subrequests: 1000,
            log_bytes: 256 << 10,
        }
    }
}

pub(crate) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

/// A day of the Gregorian calendar, as in `2025-10-08`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompatibilityDate {
    year: u16,
    month: u8,
    day: u8,
}

/// The text is no day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a day of the calendar as in \"2025-10-08\"")]
pub struct DateError;

impl FromStr for CompatibilityDate {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        let shape = text.len() == 10
            && text.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        if !shape {
            return Err(DateError);
        }
        let mut parts = text.split('-').map(|part| part.parse::<u16>().map_err(|_| DateError));
        let mut part = || parts.next().unwrap_or(Err(DateError));
        let (year, month, day) = (part()?, part()?, part()?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return Err(DateError),
        };
        if day == 0 || day > days {
            return Err(DateError);
        }
        let small = |number: u16| u8::try_from(number).map_err(|_| DateError);
        Ok(CompatibilityDate { year, month: small(month)?, day: small(day)? })
    }
}

impl fmt::Display for CompatibilityDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Serialize for CompatibilityDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_of_the_calendar() {
        for text in ["2025-10-08", "2024-02-29", "2000-02-29", "0001-01-01"] {
            assert_eq!(text.parse::<CompatibilityDate>().unwrap().to_string(), text);
        }
        for text in [
            "2025-02-29",
            "1900-02-29",
            "2025-13-01",
            "2025-00-01",
            "2025-01-00",
            "2025-1-1",
            "25-01-01",
            "2025/01/01",
            "2025-01-01 ",
            "",
            "é025-10-0",
        ] {
            assert!(text.parse::<CompatibilityDate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("hunter2".into());
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&Binding::Secret(secret)).unwrap().contains("hunter2"));
    }

    #[test]
    fn a_grant_without_models_allows_all() {
        assert!(AiGrant::default().allows("x"));
        let narrow = AiGrant { models: Some(vec!["a".into()]), loras: Some(vec!["l".into()]) };
        assert!(narrow.allows("a") && !narrow.allows("b"));
        assert!(AiGrant::default().allows_lora("x") && narrow.allows_lora("l") && !narrow.allows_lora("a"));
    }
}
