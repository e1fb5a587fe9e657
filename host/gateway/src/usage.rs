//! Tokens in answers of every provider, whole or streamed, and what they cost.

use host_upstream::Events;
use serde_json::Value;

use crate::Price;

/// Counts that are believed.
const MAX_COUNT: u64 = 1 << 40;

/// Tokens of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
}

impl Tokens {
    /// Adds what an answer, or an event of one, says.
    pub(crate) fn take(&mut self, answer: &Value) {
        // Anthropic's first event has them inside of `message`.
        for usage in [answer.get("usage"), answer.pointer("/message/usage"), answer.pointer("/result/usage")]
            .into_iter()
            .flatten()
        {
            let count =
                |names: [&str; 2]| names.iter().find_map(|name| usage.get(name)?.as_u64()).map(|n| n.min(MAX_COUNT));
            self.input = count(["prompt_tokens", "input_tokens"]).or(self.input);
            self.output = count(["completion_tokens", "output_tokens"]).or(self.output);
        }
    }

    /// What they cost: by the caller's account, else by the operator's.
    pub(crate) fn cost(&self, price: Option<&Price>, custom: Option<&Value>) -> Option<f64> {
        let (input, output) = (self.input.unwrap_or(0) as f64, self.output.unwrap_or(0) as f64);
        if let Some(custom) = custom {
            let number = |name: &str| custom.get(name).and_then(Value::as_f64).filter(|number| number.is_finite());
            let by_token = || {
                let (each_in, each_out) = (number("per_token_in"), number("per_token_out"));
                (each_in.is_some() || each_out.is_some())
                    .then(|| each_in.unwrap_or(0.0) * input + each_out.unwrap_or(0.0) * output)
            };
            return number("total_cost").or_else(by_token);
        }
        price.map(|price| (price.input * input + price.output * output) / 1e6)
    }
}

/// Reads the tokens of an answer that streams by.
#[derive(Default)]
pub(crate) struct Counter {
    events: Events,
    given_up: bool,
    pub(crate) tokens: Tokens,
}

impl Counter {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.given_up {
            return;
        }
        self.events.push(bytes);
        loop {
            match self.events.read() {
                // Most events say nothing of it, and need not be read for that.
                Ok(Some(data)) if data.contains("usage") => {
                    if let Ok(event) = serde_json::from_str(&data) {
                        self.tokens.take(&event);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    self.given_up = true;
                    self.events = Events::default();
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_of_every_provider_are_found_and_priced() {
        let both = Tokens { input: Some(3), output: Some(5) };
        for answer in [
            json!({ "usage": { "prompt_tokens": 3, "completion_tokens": 5 } }),
            json!({ "usage": { "input_tokens": 3, "output_tokens": 5 } }),
        ] {
            let mut tokens = Tokens::default();
            tokens.take(&answer);
            assert_eq!(tokens, both);
        }
        let mut counter = Counter::default();
        counter.push(
            b"event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n",
        );
        counter.push(b"data: {\"usage\":{\"output_tokens\":5}}\n\ndata: [DONE]\n\n");
        assert_eq!(counter.tokens, both);
        let price = Price { input: 1e6, output: 2e6 };
        assert_eq!(both.cost(Some(&price), None), Some(13.0));
        assert_eq!(both.cost(Some(&price), Some(&json!({ "total_cost": 2 }))), Some(2.0));
        assert_eq!(both.cost(None, Some(&json!({ "per_token_in": 1 }))), Some(3.0));
        assert_eq!(both.cost(None, None), None);
    }
}
