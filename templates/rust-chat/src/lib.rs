//! Answers `?q=` with a language model: the whole answer as JSON, or with `&stream` word by word as it is written.

use host_sdk::ai::{Message, TextGenerationInput, TextGenerationOutput};
use host_sdk::*;
use serde_json::json;

/// The aliases of wrangler.toml may let a smaller model answer to this name.
const MODEL: &str = "@cf/meta/llama-3.1-8b-instruct";

const USAGE: &str = "Ask something:\n  /?q=why+is+the+sky+blue          the answer as JSON\n  /?q=why+is+the+sky+blue&stream   the answer as it is written\n";

#[fetch]
async fn main(req: Request, env: Env) -> Result<Response> {
    let url = req.url()?;
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let Some(question) = parameter("q").filter(|question| !question.trim().is_empty()) else {
        return Response::error(USAGE, 400);
    };
    let input = conversation(question);
    let answer = if parameter("stream").is_some() { stream(&env, &input).await } else { whole(&env, &input).await };
    match answer {
        Err(Error::Ai(error)) => refusal(&error),
        other => other,
    }
}

fn conversation(question: String) -> TextGenerationInput {
    TextGenerationInput::messages([
        Message::system("You are a friendly assistant. Answer in a few sentences."),
        Message::user(question),
    ])
}

async fn whole(env: &Env, input: &TextGenerationInput) -> Result<Response> {
    let output: TextGenerationOutput = env.ai("AI")?.run(MODEL, input).await?;
    Response::from_json(&json!({ "response": output.response, "usage": output.usage }))
}

async fn stream(env: &Env, input: &TextGenerationInput) -> Result<Response> {
    Response::stream(env.ai("AI")?.run_stream(MODEL, input).await?)
}

/// A refused call, with the status that the refusal names and, for a full queue, when to come back.
fn refusal(error: &AiError) -> Result<Response> {
    let body = json!({ "error": { "code": error.code, "message": error.message } });
    let mut response = Response::from_json(&body)?.with_status(error.status);
    if let Some(seconds) = error.retry_after {
        response.headers_mut().set("retry-after", &seconds.to_string())?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_ends_with_the_question() {
        let input = serde_json::to_value(conversation("why?".to_owned())).unwrap();
        let messages = input["messages"].as_array().unwrap();
        assert_eq!(messages.last(), Some(&json!({ "role": "user", "content": "why?" })));
    }
}
