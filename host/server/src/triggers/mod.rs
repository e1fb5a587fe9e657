//! What starts a worker besides a request: messages of queues, and the clock.
//!
//! [`Triggers`] belong to the workers that they were started for. When others take their place they are halted, and what
//! is being handled ends with what it began with, as requests do. Handlers have more time than requests: 15 minutes, as
//! on Cloudflare. Their other limits are the worker's own.

mod consumers;
mod crons;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host_config::Project;
use host_queues::{Consumer, Policy, QueueError, Queues};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Served;

/// How long a handler of an event may take.
const WALL: Duration = Duration::from_secs(15 * 60);
/// How long it may take to write down what became of messages, once their handlers have been cut off.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Tasks that start a project's workers. Dropping it halts them and cuts off what they have started.
pub struct Triggers {
    course: Course,
}

/// What every task of them looks at.
#[derive(Clone, Default)]
struct Course {
    /// Nothing new is started.
    halt: CancellationToken,
    /// What has been started ends.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Triggers {
    /// Starts handling messages for those workers that consume a queue and, if `crons`, runs the others' schedules.
    ///
    /// # Errors
    /// When a queue has a name that none can have.
    pub fn start(project: &Project, served: &[Served], queues: &Queues, crons: bool) -> Result<Self, QueueError> {
        // Made first, so that an error below ends what was started.
        let triggers = Self { course: Course::default() };
        let course = &triggers.course;
        let mut schedules = Vec::new();
        for served in served {
            let Some((worker, config)) = served.site.worker().zip(project.worker(served.site.name())) else { continue };
            for consumer in &config.consumers {
                let policy = Policy {
                    batch: consumer.max_batch_size,
                    wait: consumer.max_batch_timeout,
                    retries: consumer.max_retries,
                    retry_delay: consumer.retry_delay,
                    ..Policy::default()
                };
                let dead_letters = consumer.dead_letter_queue.as_deref().map(|name| queues.queue(name)).transpose()?;
                let taken = Arc::new(Consumer::new(queues.queue(&consumer.queue)?, policy, dead_letters));
                let work = consumers::consume(worker.clone(), taken, consumer.max_concurrency, course.clone());
                course.tasks.spawn(work);
            }
            schedules.extend(config.crons.iter().filter(|_| crons).map(|cron| (worker.clone(), cron.clone())));
        }
        if !schedules.is_empty() {
            course.tasks.spawn(crons::keep_time(schedules, course.clone()));
        }
        Ok(triggers)
    }

    /// Starts nothing new from now on.
    pub fn halt(&self) {
        self.course.halt.cancel();
    }

    /// Halts, and waits for what is being handled. What has not ended after `grace` is cut off: its messages go back
    /// as if they had never been delivered. Gives how many handlers that were.
    pub async fn stop(self, grace: Duration) -> usize {
        self.halt();
        let tasks = &self.course.tasks;
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_ok() {
            return 0;
        }
        let late = tasks.len();
        self.course.cut.cancel();
        let _ = tokio::time::timeout(LAST_WORDS, tasks.wait()).await;
        late
    }
}

impl Drop for Triggers {
    fn drop(&mut self) {
        self.course.halt.cancel();
        self.course.cut.cancel();
    }
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
