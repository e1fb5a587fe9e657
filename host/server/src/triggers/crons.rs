//! Runs `scheduled` handlers when their time has come.
//!
//! One task keeps the time for all workers of a project. What was missed, because the host was not running or the machine
//! slept, is not made up for; a handler that still runs when its time comes again runs twice, as on Cloudflare.

use std::time::Duration;

use host_bindings::Bindings;
use host_config::Cron;
use host_runtime::Worker;
use serde_json::json;

use super::{Course, WALL, now_ms};

/// How far the clock may have gone past a time that is still kept.
const LATE_MS: i64 = 60_000;
/// The longest sleep: the system's clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(30);

type Schedule = (Worker<Bindings>, Cron);

/// Runs handlers on time until it is halted.
pub(super) async fn keep_time(schedules: Vec<Schedule>, course: Course) {
    let mut after = now_ms();
    while let Some(next) = schedules.iter().filter_map(|(_, cron)| cron.next_after(after)).min() {
        let now = now_ms();
        if now < next {
            let wait = Duration::from_millis(next.saturating_sub(now).unsigned_abs()).min(NAP);
            tokio::select! {
                () = course.halt.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            // Set back by more than a schedule can tell, the clock counts anew.
            after = if now_ms().saturating_add(LATE_MS) < after { now_ms() } else { after };
            continue;
        }
        if course.halt.is_cancelled() {
            return;
        }
        if now.saturating_sub(next) >= LATE_MS {
            after = now;
            continue;
        }
        for (worker, cron) in schedules.iter().filter(|(_, cron)| cron.next_after(after) == Some(next)) {
            course.tasks.spawn(run(worker.clone(), cron.to_string(), next, course.clone()));
        }
        after = next;
    }
    course.halt.cancelled().await;
}

async fn run(worker: Worker<Bindings>, cron: String, time: i64, course: Course) {
    let context = worker.admit_event(WALL);
    let (name, request) = (worker.name(), context.id());
    let payload = json!({ "scheduledTime": time, "cron": cron }).to_string();
    tokio::select! {
        done = worker.event(&context, "scheduled", payload) => match done {
            Ok(_) => tracing::info!(worker = name, request, cron, "scheduled"),
            Err(fault) => tracing::warn!(worker = name, request, cron, "the scheduled handler failed: {fault}"),
        },
        () = course.cut.cancelled() => tracing::warn!(worker = name, request, cron, "the scheduled handler was cut off"),
    }
}
