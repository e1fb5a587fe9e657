//! Sends sub-requests as the test says, for the tests of outbound `fetch`.
//!
//! | path | answer |
//! | --- | --- |
//! | `/?url=U` | `{status, body}` of a GET of U, or `{error}` |
//! | `/post?url=U` | the same for a POST of this request's body, passed on unread |
//! | `/proxy?url=U` | the response to a GET of U as it is |
//! | `/many?url=U&n=N` | `{statuses: {STATUS: count}, errors: {TEXT: count}}` of N GETs at once |

use host_sdk::futures_util::future::join_all;
use host_sdk::*;
use serde_json::{Map, Value, json};

#[fetch]
async fn main(mut req: Request) -> Result<Response> {
    let url = req.url()?;
    let parameter = |name: &str| {
        let found = url.query_pairs().find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let target = parameter("url");
    match url.path() {
        "/" => relay(get(&target).await).await,
        "/post" => {
            let init = RequestInit::new().with_method(Method::Post).with_stream(req.stream()?);
            let sent = match Request::new_with_init(&target, init) {
                Ok(request) => Fetch::Request(request).send().await,
                Err(error) => Err(error),
            };
            relay(sent).await
        }
        "/proxy" => get(&target).await,
        "/many" => {
            let answers = join_all((0..parameter("n").parse().unwrap_or(2)).map(|_: u32| get(&target))).await;
            let (mut statuses, mut errors) = (Map::new(), Map::new());
            for answer in &answers {
                match answer {
                    Ok(response) => count(&mut statuses, response.status_code().to_string()),
                    Err(error) => count(&mut errors, error.to_string()),
                }
            }
            Response::from_json(&json!({ "statuses": statuses, "errors": errors }))
        }
        other => Response::error(format!("no such path: {other}"), 404),
    }
}

async fn get(url: &str) -> Result<Response> {
    Fetch::Url(url.parse()?).send().await
}

async fn relay(answer: Result<Response>) -> Result<Response> {
    let told = match answer {
        Ok(mut response) => match response.text().await {
            Ok(body) => json!({ "status": response.status_code(), "body": body }),
            Err(error) => json!({ "status": response.status_code(), "error": error.to_string() }),
        },
        Err(error) => json!({ "error": error.to_string() }),
    };
    Response::from_json(&told)
}

fn count(counts: &mut Map<String, Value>, key: String) {
    let so_far = counts.get(&key).and_then(Value::as_u64).unwrap_or(0);
    counts.insert(key, json!(so_far + 1));
}
