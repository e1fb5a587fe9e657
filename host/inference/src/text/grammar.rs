//! Answers that must follow a grammar: a JSON schema, a regular expression, or a grammar in llguidance's Lark.
//!
//! llguidance says which tokens may come next; the sampler leaves out the others. What a grammar forces is taken over
//! without asking the model, all of it in one step. A schema is hostile: llguidance compiles and follows it under limits,
//! and whatever breaks one is the request's error.

use std::cell::OnceCell;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::tokenizer::Vocabulary;
use crate::AiError;
use crate::backend::AnswerFormat;

/// Bytes of a grammar's text.
const MAX_GRAMMAR: usize = 512 << 10;

/// Makes the grammars of one model's answers. What they share is made when the first is asked for.
pub(crate) struct Grammars {
    vocabulary: Arc<Vocabulary>,
    factory: OnceCell<Result<ParserFactory, String>>,
}

impl Grammars {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, factory: OnceCell::new() }
    }

    /// A grammar at its beginning. `property` is what of the request asks for it.
    ///
    /// # Errors
    /// 5006 when the format means nothing or breaks a limit.
    pub(crate) fn start(&self, format: &AnswerFormat, property: &str) -> Result<Grammar, AiError> {
        let factory = self.factory.get_or_init(|| factory(&self.vocabulary)).as_ref().map_err(AiError::internal)?;
        let refuse = |why: String| AiError::bad_input(format_args!("at '{property}': {why}"));
        let (grammar, length) = match format {
            AnswerFormat::Json(schema) => {
                let schema = compact(schema.clone());
                let length = schema.to_string().len();
                (TopLevelGrammar::from_json_schema(schema), length)
            }
            AnswerFormat::Regex(regex) => (TopLevelGrammar::from_regex(regex), regex.len()),
            AnswerFormat::Lark(lark) => (TopLevelGrammar::from_lark(lark.clone()), lark.len()),
        };
        if length > MAX_GRAMMAR {
            return Err(refuse(format!("has {length} bytes; at most {MAX_GRAMMAR} are taken")));
        }
        let parser = factory.create_parser(grammar).map_err(|error| refuse(brief(&error.to_string())))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(refuse(brief(&error))),
            None => Ok(Grammar { matcher, prepared: None }),
        }
    }
}

/// JSON as models write it: one space after separators, none elsewhere. Free white space lets a small model write nothing
/// but spaces until it is cut off.
fn compact(schema: Value) -> Value {
    match schema {
        Value::Object(mut map) => {
            map.entry("x-guidance").or_insert_with(
                || json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " }),
            );
            Value::Object(map)
        }
        other => other,
    }
}

/// The first line of what llguidance says, which may go on with the whole grammar.
fn brief(error: &str) -> String {
    error.lines().next().unwrap_or_default().chars().take(300).collect()
}

fn factory(vocabulary: &Arc<Vocabulary>) -> Result<ParserFactory, String> {
    let words: Vec<Vec<u8>> = (0..vocabulary.len() as u32)
        .map(|token| match vocabulary.control_text(token) {
            // The marker keeps the text of a control token apart from the same text in plain tokens.
            Some(text) => [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat(),
            None => vocabulary.token(token).to_vec(),
        })
        .collect();
    let end = vocabulary.end_of_turn().ok_or("the model has no token that ends an answer")?;
    let trie = TokTrie::from(&TokRxInfo::new(vocabulary.len() as u32, end), &words);
    let environment: TokEnv = Arc::new(Environment { trie, vocabulary: vocabulary.clone() });
    let mut factory = ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
    factory.quiet().limits_mut().verbose_errors = false;
    Ok(factory)
}

/// The model's tokenizer, as llguidance asks for it.
struct Environment {
    trie: TokTrie,
    vocabulary: Arc<Vocabulary>,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(text, |text| self.vocabulary.encode_plain(text))
    }
}

/// Where one answer stands in its grammar.
pub(crate) struct Grammar {
    matcher: Matcher,
    /// The next mask, if it was computed before it was asked for.
    prepared: Option<Result<SimpleVob, GrammarError>>,
}

/// A grammar that cannot be followed further: a limit of llguidance, or a fault.
#[derive(Debug, thiserror::Error)]
#[error("the grammar of the answer cannot be followed: {0}")]
pub(crate) struct GrammarError(String);

impl Grammar {
    /// The tokens that may come next, the end of the turn among them where the answer may end.
    pub(crate) fn mask(&mut self) -> Result<SimpleVob, GrammarError> {
        self.prepare();
        self.prepared.take().unwrap_or_else(|| Err(GrammarError("it has no mask".into())))
    }

    /// Computes what [`Self::mask`] will give. A panic of llguidance is caught by it and ends in an error.
    pub(crate) fn prepare(&mut self) {
        let matcher = &mut self.matcher;
        self.prepared.get_or_insert_with(|| {
            matcher.compute_mask_or_eos().map_err(|error| GrammarError(brief(&error.to_string())))
        });
    }

    /// Takes the token that was picked, and gives those that must follow it, which count as taken.
    pub(crate) fn accept(&mut self, token: u32) -> Result<Vec<u32>, GrammarError> {
        self.prepared = None;
        self.matcher.consume_token(token).map_err(|error| GrammarError(brief(&error.to_string())))?;
        Ok(if self.matcher.is_stopped() { Vec::new() } else { self.matcher.consume_ff_tokens() })
    }

    /// How many of `tokens`, from the first, may follow one after another.
    pub(crate) fn fits(&mut self, tokens: &[u32]) -> usize {
        self.matcher.validate_tokens(tokens).unwrap_or(0)
    }

    /// Whether nothing can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::vocabulary;
    use super::*;
    use crate::backend::CallStyle;
    use crate::tasks::tools::Toolbox;

    fn grammars() -> Grammars {
        Grammars::new(Arc::new(vocabulary()))
    }

    /// Feeds a text, a byte a token; how much of it the grammar takes.
    fn taken(format: &AnswerFormat, text: &str) -> usize {
        let mut grammar = grammars().start(format, "/p").unwrap();
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if grammar.is_complete() || !grammar.mask().unwrap().is_allowed(u32::from(bytes[at])) {
                return at;
            }
            let forced = grammar.accept(u32::from(bytes[at])).unwrap();
            at += 1;
            for token in forced {
                if bytes.get(at).map(|byte| u32::from(*byte)) != Some(token) {
                    return at;
                }
                at += 1;
            }
        }
        at
    }

    #[test]
    fn a_schema_is_followed() {
        let schema = AnswerFormat::Json(json!({
            "type": "object",
            "properties": { "name": { "type": "string" }, "age": { "$ref": "#/$defs/age" } },
            "required": ["name", "age"],
            "additionalProperties": false,
            "$defs": { "age": { "type": "integer", "minimum": 0, "maximum": 150 } },
        }));
        let good = r#"{"name": "Ada", "age": 36}"#;
        assert_eq!(taken(&schema, good), good.len());
        assert_eq!(taken(&schema, r#"{"name": "Ada", "age": 151}"#), r#"{"name": "Ada", "age": 15"#.len());
        assert_eq!(taken(&schema, r#"{"nick"#), r#"{"n"#.len());
        assert_eq!(taken(&schema, "   {"), 0);
    }

    #[test]
    fn calls_of_tools_are_held_to_names_and_schemas() {
        let city = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
        let tools = json!([{ "name": "weather", "parameters": city }, { "name": "time" }]);
        let format = |style, choice: Value| Toolbox::read(Some(&tools), Some(&choice)).unwrap().format(style);
        let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
        let wrong = "<tool_call>\n{\"name\": \"whether\"";
        let auto = format(CallStyle::Hermes, json!("auto"));
        for text in [format!("I look. {call} And {call} so."), "a <tool> b".to_owned(), call.to_owned()] {
            assert_eq!(taken(&auto, &text), text.len(), "{text}");
        }
        assert_eq!(taken(&auto, wrong), wrong.find("hether").unwrap());
        let required = format(CallStyle::Hermes, json!("required"));
        let two = format!("{call}\n{call}");
        assert_eq!((taken(&required, &two), taken(&required, "No.")), (two.len(), 0));
        let named = format(CallStyle::Hermes, json!({ "name": "weather" }));
        assert_eq!(taken(&named, &two), call.len());
        let llama = format(CallStyle::Llama3, json!("auto"));
        let good = "{\"name\": \"time\", \"parameters\": {}}";
        assert_eq!(taken(&llama, good), good.len());
        assert_eq!(taken(&llama, "{\"nome"), "{\"n".len());
        let tagged = format!("<|python_tag|>{good}");
        for text in ["Noon.", "<b>Noon</b>", "<", &tagged] {
            assert_eq!(taken(&llama, text), text.len(), "{text}");
        }
        assert_eq!(taken(&llama, "<|python_tag|>print"), "<|python_tag|>".len());
    }

    #[test]
    fn lists_of_calls_are_held_to_names_and_schemas() {
        let city = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
        let tools = json!([{ "name": "weather", "parameters": city }, { "name": "time" }]);
        let format = |choice: Value| Toolbox::read(Some(&tools), Some(&choice)).unwrap().format(CallStyle::Mistral);
        let weather = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
        let time = r#"{"name": "time", "arguments": {}, "id": "a1B2c3D4e"}"#;
        let (one, two) = (format!("[TOOL_CALLS] [{weather}]"), format!("[TOOL_CALLS][{weather}, {time}]"));
        let auto = format(json!("auto"));
        for text in [one.as_str(), &two, "It is [noon].", &format!("I look. {two}")] {
            assert_eq!(taken(&auto, text), text.len(), "{text}");
        }
        assert_eq!(taken(&auto, "[TOOL_CALLS] [{\"name\": \"whether"), "[TOOL_CALLS] [{\"name\": \"w".len());
        assert_eq!(taken(&auto, &format!("{one} and")), one.len());
        assert_eq!(taken(&auto, "[TOOL_CALLS] []"), "[TOOL_CALLS] [".len());
        let required = format(json!("required"));
        assert_eq!((taken(&required, &two), taken(&required, "No.")), (two.len(), 0));
        let named = format(json!({ "name": "weather" }));
        assert_eq!(taken(&named, &one), one.len());
        assert_eq!(taken(&named, &two), two.find(", {\"name\": \"time").unwrap());
    }

    #[test]
    fn regexes_and_grammars_are_followed() {
        assert_eq!(taken(&AnswerFormat::Regex("(yes|no)".into()), "yes"), 3);
        assert_eq!(taken(&AnswerFormat::Regex("(yes|no)".into()), "maybe"), 0);
        let lark = AnswerFormat::Lark("start: \"a\" b+\nb: \"b\"".into());
        assert_eq!(taken(&lark, "abbb"), 4);
        assert_eq!(taken(&lark, "ac"), 1);
    }

    #[test]
    fn an_answer_may_end_only_when_it_is_whole() {
        let mut grammar = grammars().start(&AnswerFormat::Regex("a+".into()), "/p").unwrap();
        assert!(!grammar.mask().unwrap().is_allowed(257));
        grammar.accept(u32::from(b'a')).unwrap();
        assert!(grammar.mask().unwrap().is_allowed(257));
    }

    #[test]
    fn what_means_nothing_is_refused_in_few_words() {
        let huge = json!({ "enum": (0..100_000).map(|n| format!("value number {n}")).collect::<Vec<_>>() });
        for format in [
            AnswerFormat::Json(json!({ "type": "no such type" })),
            AnswerFormat::Json(json!({ "$ref": "#/nowhere" })),
            AnswerFormat::Json(json!({ "type": "string", "pattern": "(" })),
            AnswerFormat::Json(json!(7)),
            AnswerFormat::Json(huge),
            AnswerFormat::Regex("(".into()),
            AnswerFormat::Lark("start: nothing".into()),
        ] {
            let error = grammars().start(&format, "/p").err().unwrap_or_else(|| panic!("{format:?} was taken"));
            assert!(error.code == 5006 && error.message.contains("'/p'"), "{error}");
            assert!(error.message.len() < 500, "{}", error.message);
        }
    }
}
