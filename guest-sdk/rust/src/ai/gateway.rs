//! `env.AI.gateway(id)`: calls of providers and of the host's models through the host's gateway.

use crate::{Error, Fetch, Method, Request, RequestInit, Response, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The address of gateways, which the host answers itself.
const ADDRESS: &str = "http://gateway.internal";

/// A gateway, for calls of its providers.
///
/// ```no_run
/// use host_sdk::ai::GatewayRequest;
/// use host_sdk::*;
/// use serde_json::json;
///
/// # async fn example(env: Env) -> Result<Response> {
/// let messages = json!([{ "role": "user", "content": "Hello" }]);
/// let first = GatewayRequest::new("openai", "chat/completions", json!({ "model": "gpt-4o", "messages": messages }));
/// let local = GatewayRequest::new("workers-ai", "@cf/meta/llama-3.1-8b-instruct", json!({ "messages": messages }));
/// env.ai("AI")?.gateway("front").run(&[first, local]).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gateway {
    path: String,
}

/// What is asked of one provider.
///
/// ```
/// use host_sdk::ai::GatewayRequest;
/// use serde_json::json;
///
/// let request = GatewayRequest::new("openai", "embeddings", json!({ "input": "a" })).with_header("cf-aig-cache-ttl", "60");
/// # drop(request);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayRequest {
    /// The provider's name; `workers-ai` is the host itself.
    pub provider: String,
    /// A path of the provider's, or a model of `workers-ai`.
    pub endpoint: String,
    /// Headers for the provider, and options of this request as `cf-aig-…`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub query: Value,
}

impl GatewayRequest {
    /// A request without headers.
    ///
    /// ```
    /// # use host_sdk::ai::GatewayRequest;
    /// let request = GatewayRequest::new("openai", "models", serde_json::Value::Null);
    /// # drop(request);
    /// ```
    pub fn new(provider: impl Into<String>, endpoint: impl Into<String>, query: Value) -> Self {
        Self { provider: provider.into(), endpoint: endpoint.into(), headers: BTreeMap::new(), query }
    }

    /// Adds a header, or an option such as `cf-aig-cache-ttl`.
    ///
    /// ```
    /// # use host_sdk::ai::GatewayRequest;
    /// # let request = GatewayRequest::new("openai", "models", serde_json::Value::Null);
    /// let request = request.with_header("cf-aig-skip-cache", "true");
    /// # drop(request);
    /// ```
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }
}

impl Gateway {
    pub(super) fn new(binding: &str, id: &str) -> Self {
        Self { path: format!("{ADDRESS}/{binding}/{id}") }
    }

    /// Asks the providers in turn until one succeeds, and gives its answer; the last one's if none does. The headers
    /// `cf-aig-log-id`, `cf-aig-cache-status` and `cf-aig-step` tell how it came about.
    ///
    /// # Errors
    /// When the call cannot be made. A provider's status such as 429 is an answer.
    ///
    /// ```no_run
    /// # async fn example(gateway: host_sdk::ai::Gateway, request: host_sdk::ai::GatewayRequest) -> host_sdk::Result<()> {
    /// let mut response = gateway.run(&[request]).await?;
    /// let answer: serde_json::Value = response.json().await?;
    /// # drop(answer);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(&self, requests: &[GatewayRequest]) -> Result<Response> {
        self.send(Method::Post, &self.path, Some(serde_json::to_string(requests)?)).await
    }

    /// The address of a provider behind the gateway, for [`Fetch`] and for client libraries.
    ///
    /// ```no_run
    /// # fn example(gateway: host_sdk::ai::Gateway) {
    /// let models = format!("{}/models", gateway.url("openai"));
    /// # drop(models);
    /// # }
    /// ```
    pub fn url(&self, provider: &str) -> String {
        format!("{}/{provider}", self.path)
    }

    /// An entry of this worker's log.
    ///
    /// # Errors
    /// When there is no such entry, or it is not an `O`.
    ///
    /// ```no_run
    /// # async fn example(gateway: host_sdk::ai::Gateway, id: &str) -> host_sdk::Result<()> {
    /// let log: serde_json::Value = gateway.log(id).await?;
    /// host_sdk::console_log!("{} tokens", log["tokens_out"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn log<O: DeserializeOwned>(&self, id: &str) -> Result<O> {
        let mut response = self.send(Method::Get, &format!("{}/logs/{id}", self.path), None).await?;
        refused(&mut response).await?;
        response.json().await
    }

    /// Adds a `score`, `feedback` or `metadata` to an entry of this worker's log.
    ///
    /// # Errors
    /// When there is no such entry, or what is added breaks a rule.
    ///
    /// ```no_run
    /// # async fn example(gateway: host_sdk::ai::Gateway, id: &str) -> host_sdk::Result<()> {
    /// gateway.patch_log(id, serde_json::json!({ "feedback": 1 })).await
    /// # }
    /// ```
    pub async fn patch_log(&self, id: &str, patch: impl Serialize) -> Result<()> {
        let patch = serde_json::to_string(&patch)?;
        let mut response = self.send(Method::Patch, &format!("{}/logs/{id}", self.path), Some(patch)).await?;
        refused(&mut response).await
    }

    async fn send(&self, method: Method, url: &str, body: Option<String>) -> Result<Response> {
        let init = RequestInit::new().with_method(method);
        let init = match body {
            Some(body) => init.with_body(body),
            None => init,
        };
        Fetch::Request(Request::new_with_init(url, init)?).send().await
    }
}

/// An error if the gateway refused.
async fn refused(response: &mut Response) -> Result<()> {
    if response.status_code() < 400 {
        return Ok(());
    }
    let document: Value = response.json().await?;
    let message = document.pointer("/errors/0/message").and_then(Value::as_str).unwrap_or("the gateway refused");
    Err(Error::from(message.to_owned()))
}
