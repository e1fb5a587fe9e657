//! Tells what it was asked, for the tests of requests and responses.
//!
//! | path | answer |
//! | --- | --- |
//! | `/stream` | the body, passed on unread |
//! | `/pieces` | the body, read and sent on piece by piece |
//! | `/status?code=N` | an empty response with that status |
//! | `/log?text=T` | a line on stdout and one on stderr |
//! | `/later?ms=N` | at once; a line on stdout N milliseconds after the response |
//! | `/slow?ms=N` | an answer after N milliseconds |
//! | `/wait-many?n=N&ms=M` | an answer once N timers of M milliseconds, waited for together, have run out |
//! | `/fail` | a handler that returns an error |
//! | `/broken` | a body that breaks off after its first piece |
//! | `/twice` | the number of requests that this instance has answered |
//! | any other | `{method, url, path, headers, body}` |

use host_sdk::futures_util::{future::join_all, stream};
use host_sdk::*;
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static ANSWERED: Cell<u64> = const { Cell::new(0) };
}

#[fetch]
async fn main(mut req: Request, _env: Env, ctx: Context) -> Result<Response> {
    ANSWERED.with(|count| count.set(count.get() + 1));
    let url = req.url()?;
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let number = |name: &str| parameter(name).and_then(|text| text.parse::<u64>().ok());
    let delay = Duration::from_millis(number("ms").unwrap_or(10));
    match url.path() {
        "/stream" => pass_on(&mut req),
        "/pieces" => Response::from_stream(req.stream()?),
        "/status" => Ok(Response::empty()?.with_status(number("code").and_then(|n| n.try_into().ok()).unwrap_or(0))),
        "/log" => {
            let text = parameter("text").unwrap_or_default();
            console_log!("{text}");
            console_error!("{text}");
            Response::ok("logged")
        }
        "/later" => {
            ctx.wait_until(async move {
                sleep(delay).await;
                console_log!("later");
            });
            Response::ok("now")
        }
        "/slow" => {
            sleep(delay).await;
            Response::ok("slow")
        }
        "/wait-many" => {
            let timers = (0..number("n").unwrap_or(2)).map(|_| sleep(delay));
            Response::ok(join_all(timers).await.len().to_string())
        }
        "/fail" => Err("this text must not reach the client".into()),
        "/broken" => {
            let pieces = [Ok("first"), Err(Error::from("the second piece is missing"))];
            Response::from_stream(stream::iter(pieces))
        }
        "/twice" => Response::ok(ANSWERED.with(Cell::get).to_string()),
        _ => describe(&mut req).await,
    }
}

fn pass_on(req: &mut Request) -> Result<Response> {
    let content_type = req.headers().get("content-type")?;
    let mut response = Response::stream(req.stream()?)?;
    if let Some(content_type) = content_type {
        response.headers_mut().set("content-type", &content_type)?;
    }
    Ok(response)
}

async fn describe(req: &mut Request) -> Result<Response> {
    let headers: Map<String, Value> =
        req.headers().entries().map(|(name, value)| (name, Value::String(value))).collect();
    let (method, url, path) = (req.method().to_string(), req.url()?.to_string(), req.path());
    let body = String::from_utf8_lossy(&req.bytes().await?).into_owned();
    Response::from_json(&json!({ "method": method, "url": url, "path": path, "headers": headers, "body": body }))
}
