//! What a `#[scheduled]` handler gets.

use serde::Deserialize;

/// When a schedule of the binding file has come due.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[scheduled]
/// async fn main(event: ScheduledEvent, _env: Env, _ctx: ScheduleContext) {
///     console_log!("{} is due", event.cron());
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledEvent {
    cron: String,
    scheduled_time: f64,
}

impl ScheduledEvent {
    /// The schedule, as the binding file has it.
    pub fn cron(&self) -> String {
        self.cron.clone()
    }

    /// When it was due, in milliseconds since 1970.
    pub fn schedule(&self) -> f64 {
        self.scheduled_time
    }

    /// What kind of event this is: `scheduled`.
    pub fn ty(&self) -> String {
        "scheduled".to_owned()
    }
}

/// The context of a `#[scheduled]` handler, by the name that it has elsewhere.
pub type ScheduleContext = crate::Context;

/// What a handler of events may return.
#[doc(hidden)]
pub trait Outcome {
    /// Its error in words.
    fn outcome(self) -> Result<(), String>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display> Outcome for Result<(), E> {
    fn outcome(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}
