//! Sends to the queue `Q` and handles messages and schedules, for the tests of queues and events.
//!
//! | path | |
//! | --- | --- |
//! | `POST /send` | sends the array of jobs in the body as one batch |
//! | `/types` | sends a message of each type |
//! | `/metrics` | what the queue holds |
//! | `/refused` | what is said about messages that cannot be sent |
//! | anything else | `fetch`, and the path |

use host_sdk::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Deserialize, Serialize)]
struct Job {
    what: String,
    #[serde(default)]
    then: String,
}

#[fetch]
async fn main(mut req: Request, env: Env) -> Result<Response> {
    let queue = env.queue("Q");
    match req.path().as_str() {
        "/send" => {
            queue?.send_batch(req.json::<Vec<Job>>().await?).await?;
            Response::ok("sent")
        }
        "/types" => {
            let queue = queue?;
            queue.send(&json!({ "what": "json" })).await?;
            queue.send(SendMessage::text("text")).await?;
            queue.send(SendMessage::bytes([0, 255]).with_delay_seconds(1)).await?;
            Response::ok("sent")
        }
        "/metrics" => Response::from_json(&json!({ "messages": queue?.metrics().await?.backlog_count })),
        "/refused" => {
            let queue = queue?;
            let refused = [
                queue.send("x".repeat(128_000)).await,
                queue.send(SendMessage::text("late").with_delay_seconds(50_000)).await,
                queue.send_batch(Vec::<String>::new()).await,
                env.queue("NONE").map(drop),
            ];
            let words = refused.map(|done| done.err().map_or("accepted".into(), |error| error.to_string()));
            Response::from_json(&words)
        }
        path => Response::ok(format!("fetch {path} {:?}", req.headers().get("x-workers-event")?)),
    }
}

#[queue]
async fn handle(batch: MessageBatch<Value>, env: Env, ctx: Context) -> Result<()> {
    ctx.wait_until(async { console_log!("after the batch") });
    let (name, mut thrown) = (env.var("NAME")?, None);
    let told =
        |message: RawMessage| (message.id().len(), message.timestamp() > 1_700_000_000_000, message.bytes().is_ok());
    let sound = batch.raw_iter().all(|message| told(message) == (32, true, true)) && batch.metrics().backlog_count > 0;
    console_log!("{} messages, sound: {sound}", batch.len());
    for message in batch.messages()? {
        let (attempts, body) = (message.attempts(), message.body());
        console_log!("{name}: {} got {body}, attempt {attempts}", batch.queue());
        let what = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match (what("then").as_str(), attempts) {
            ("poison", _) if batch.queue() != "dead" => thrown = Some("poison"),
            ("panic", 1) => panic!("on purpose"),
            ("sleep", _) => sleep(std::time::Duration::from_secs(600)).await,
            ("retry", 1) => message.retry(),
            ("retry-late", 1) => message.retry_with_options(&QueueRetryOptions::new().with_delay_seconds(1)),
            ("ack-throw", 1) => {
                message.ack();
                thrown = Some("after the ack");
            }
            ("retry-all", 1) => batch.retry_all(),
            ("retry-all-late", 1) => {
                batch.retry_all_with_options(&QueueRetryOptions::new().with_delay_seconds(1));
            }
            ("ack-all", 1) => {
                batch.ack_all();
                thrown = Some("after ack_all");
            }
            _ => {}
        }
    }
    thrown.map_or(Ok(()), |why| Err(why.into()))
}

#[event(scheduled)]
async fn tick(event: ScheduledEvent, _env: Env, ctx: ScheduleContext) -> Result<()> {
    ctx.wait_until(async { console_log!("after the tick") });
    console_log!("{} at {}", event.cron(), event.schedule());
    if event.cron() == "0 0 1 1 *" { Err("a bad year".into()) } else { Ok(()) }
}
