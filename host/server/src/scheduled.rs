//! Calls a worker's `scheduled` handler on request, so that it can be tried without waiting for its time.
//!
//! The two addresses and their parameters are those of Cloudflare's local tools:
//! `/__scheduled?cron=* * * * *` and `/cdn-cgi/handler/scheduled?cron=…&time=…`, `time` in milliseconds since 1970.
//! They shadow what the worker would answer there, and anybody who reaches the server may call them, so a server has
//! them only when it is asked to.

use std::time::{SystemTime, UNIX_EPOCH};

use host_bindings::Bindings;
use host_runtime::{EventFault, RequestContext, Worker};
use http::Uri;
use serde_json::json;

use crate::Page;

/// One call of a handler.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    cron: String,
    /// Milliseconds since 1970; none for now.
    time: Option<u64>,
    /// What is answered when the handler has done its work.
    pub(crate) done: &'static str,
}

impl Call {
    /// The call that an address asks for, if it is one of the two.
    pub(crate) fn of(target: &Uri) -> Option<Self> {
        let done = match target.path() {
            "/__scheduled" => "Ran scheduled event",
            "/cdn-cgi/handler/scheduled" => "ok",
            _ => return None,
        };
        let mut call = Self { cron: String::new(), time: None, done };
        for (name, value) in form_urlencoded::parse(target.query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "cron" => call.cron = value.into_owned(),
                "time" => call.time = value.parse().ok(),
                _ => {}
            }
        }
        Some(call)
    }

    /// Lets a worker handle it.
    pub(crate) async fn run(
        &self,
        worker: &Worker<Bindings>,
        context: &std::sync::Arc<RequestContext>,
    ) -> Result<(), Page> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let payload = json!({ "scheduledTime": self.time.unwrap_or(now), "cron": self.cron });
        worker.event(context, "scheduled", payload.to_string()).await.map(drop).map_err(|fault| match &fault {
            EventFault::Failed(failure) => Page::from(failure),
            _ => Page { status: 500, code: 1101, message: fault.to_string() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Call;

    fn call(target: &str) -> Option<Call> {
        Call::of(&target.parse().unwrap())
    }

    #[test]
    fn a_plus_is_a_space_and_a_time_a_number() {
        let expected = Call { cron: "*/5 * * * *".to_owned(), time: Some(1_700_000_000_000), done: "ok" };
        assert_eq!(call("/cdn-cgi/handler/scheduled?cron=*%2F5+*+*+*+*&time=1700000000000&more=1"), Some(expected));
        let bare = Call { cron: String::new(), time: None, done: "Ran scheduled event" };
        assert_eq!(call("http://w.localhost/__scheduled?time=soon"), Some(bare));
    }

    #[test]
    fn other_addresses_are_the_workers_own() {
        for target in ["/", "/__scheduled/", "/__scheduledx", "/x?cron=*", "/cdn-cgi/handler/email"] {
            assert_eq!(call(target), None, "{target}");
        }
    }
}
