//! Calls models as the test says, for the tests of `env.AI`.
//!
//! A POST holds `{model, inputs, options?, attachments?: [{property, contentType?, text? | bytes?: number[]}]}`; the
//! binding is the query's `binding`, else `AI`. A refused call answers with the refusal's status and
//! `{error: {code, status, message, retryAfter}}`, any other failure with 500 and `{error: {message}}`.
//!
//! | path | answer |
//! | --- | --- |
//! | `/run` | the output, JSON or bytes |
//! | `/stream` | the stream of events, passed on unread |
//! | `/events` | `{text, usage, events}` of a stream that the worker reads |
//! | `/first` | the text of a stream's first event; the stream is dropped |
//! | `/parallel?n=N` | the outputs of N such calls at once, as `{outputs: […]}` |
//! | `/gateway` | what the gateway `model` gives for the requests `inputs`, passed on unread |
//! | `/gateway-url` | the same for the one request `inputs`, sent to the provider's address behind the gateway |
//! | `/log` | the entry `inputs` of the log of the gateway `model`, after `options` were added to it |
//! | `/cancel?ms=N` | starts a call, drops it after N milliseconds, answers `cancelled` (or `finished`) |

use host_sdk::ai::{Ai, AiOutput, Attachment, GatewayRequest};
use host_sdk::futures_util::StreamExt;
use host_sdk::futures_util::future::{Either, join_all, select};
use host_sdk::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Deserialize)]
struct Call {
    model: String,
    inputs: Value,
    #[serde(default)]
    options: Value,
    #[serde(default)]
    attachments: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    property: String,
    content_type: Option<String>,
    text: Option<String>,
    #[serde(default)]
    bytes: Vec<u8>,
}

impl Call {
    fn attachments(&self) -> Vec<Attachment> {
        let attachment = |part: &Part| {
            let data = part.text.as_ref().map_or_else(|| part.bytes.clone(), |text| text.clone().into_bytes());
            let attachment = Attachment::new(&part.property, data);
            match &part.content_type {
                Some(content_type) => attachment.with_content_type(content_type),
                None => attachment,
            }
        };
        self.attachments.iter().map(attachment).collect()
    }
}

#[fetch]
async fn main(mut req: Request, env: Env) -> Result<Response> {
    match answer(&mut req, &env).await {
        Err(Error::Ai(error)) => {
            let details = json!({
                "code": error.code, "status": error.status, "message": error.message, "retryAfter": error.retry_after,
            });
            Ok(Response::from_json(&json!({ "error": details }))?.with_status(error.status))
        }
        Err(error) => {
            let details = json!({ "message": error.to_string() });
            Ok(Response::from_json(&json!({ "error": details }))?.with_status(500))
        }
        Ok(response) => Ok(response),
    }
}

async fn answer(req: &mut Request, env: &Env) -> Result<Response> {
    let url = req.url()?;
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let number = |name: &str| parameter(name).and_then(|text| text.parse::<u64>().ok());
    let ai = env.ai(&parameter("binding").unwrap_or_else(|| "AI".into()))?;
    let call: Call = req.json().await?;
    match url.path() {
        "/run" => {
            let reply = ai.run_with(&call.model, &call.inputs, call.attachments(), &call.options).await?;
            let request_id = reply.request_id.clone();
            let mut response = match reply.output {
                AiOutput::Json(text) => Response::from_json(&serde_json::from_str::<Value>(&text)?)?,
                AiOutput::Stream(stream) => Response::stream(stream)?,
            };
            response.headers_mut().set("x-request-id-of-call", &request_id)?;
            Ok(response)
        }
        "/stream" => Response::stream(ai.run_stream(&call.model, &call.inputs).await?),
        "/events" => events(&ai, &call).await,
        "/first" => {
            let mut stream = ai.run_stream(&call.model, &call.inputs).await?;
            let first = stream.next().await.transpose()?;
            Response::ok(first.as_ref().and_then(|event| event.text()).unwrap_or_default())
        }
        "/parallel" => {
            let calls = (0..number("n").unwrap_or(2)).map(|_| ai.run::<_, Value>(&call.model, &call.inputs));
            let outputs = join_all(calls).await.into_iter().collect::<Result<Vec<Value>>>()?;
            Response::from_json(&json!({ "outputs": outputs }))
        }
        "/cancel" => {
            let run = Box::pin(ai.run::<_, Value>(&call.model, &call.inputs));
            match select(run, Delay::from(Duration::from_millis(number("ms").unwrap_or(10)))).await {
                Either::Left((output, _)) => output.and_then(|_| Response::ok("finished")),
                Either::Right(_) => Response::ok("cancelled"),
            }
        }
        "/gateway" => {
            let requests: Vec<GatewayRequest> = serde_json::from_value(call.inputs.clone())?;
            ai.gateway(&call.model).run(&requests).await
        }
        "/gateway-url" => {
            let step: GatewayRequest = serde_json::from_value(call.inputs.clone())?;
            let url = format!("{}/{}", ai.gateway(&call.model).url(&step.provider), step.endpoint);
            let mut headers = Headers::new();
            for (name, value) in &step.headers {
                headers.set(name, value)?;
            }
            let init = RequestInit::new().with_method(Method::Post).with_headers(headers);
            Fetch::Request(Request::new_with_init(&url, init.with_body(step.query.to_string()))?).send().await
        }
        "/log" => {
            let (gateway, id) = (ai.gateway(&call.model), call.inputs.as_str().unwrap_or_default());
            if !call.options.is_null() {
                gateway.patch_log(id, &call.options).await?;
            }
            Response::from_json(&gateway.log::<Value>(id).await?)
        }
        other => Response::error(format!("no such path: {other}"), 404),
    }
}

async fn events(ai: &Ai, call: &Call) -> Result<Response> {
    let mut stream = ai.run_stream(&call.model, &call.inputs).await?;
    let (mut text, mut usage, mut events) = (String::new(), None, 0);
    while let Some(event) = stream.next().await {
        let event = event?;
        events += 1;
        text.push_str(event.text().unwrap_or_default());
        usage = event.usage().or(usage);
    }
    Response::from_json(&json!({ "text": text, "usage": usage, "events": events }))
}
