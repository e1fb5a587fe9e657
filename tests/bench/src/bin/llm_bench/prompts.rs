//! What the models are asked. Raw prompts: what is measured is speed, and a chat template would end an answer early.

use serde_json::{Value, json};

/// A long prompt of about 512 tokens. No prompt of a measurement begins like another, so that no cache of prefixes
/// shortens it.
pub(crate) fn long() -> String {
    format!("A list of numbers:{}", " one two three four five six seven eight".repeat(63))
}

pub(crate) const WARM_UP: &str = "The sea is wide and";
pub(crate) const FIRST: &str = "Once upon a time there was a small";
pub(crate) const DECODE: &str = "Long ago and far away there was a small";
/// As long as [`CONSTRAINED`], and nothing ends what follows.
pub(crate) const FREE: &str = "Numbers: one two one two one two one two";
pub(crate) const CONSTRAINED: &str = "Answer with JSON that has a long story in it:";

/// Nearly every token of such an answer is a free choice, so that a grammar is asked at each and can spare none.
pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "story": { "type": "string", "minLength": 400, "maxLength": 500 } },
        "required": ["story"],
        "additionalProperties": false,
    })
}

/// About 300 tokens that all streams have in common.
const SYSTEM: &str = "You are the librarian of a town by the sea. Visitors come to your desk with questions about \
    the town, its history, its people, and the books on the shelves behind you. You answer each of them in full, with \
    patience and good humour, and you never send anybody away without an answer. The library was built two hundred \
    years ago by a merchant who had lost three ships in one winter and wanted to leave something behind that no storm \
    could take. It has four floors, a reading room with tall windows, a cellar full of maps, and a small garden where \
    the school children eat their lunch in summer. The oldest book is a ship's log from the year of the great flood. \
    The newest came this morning and has not been opened. When you speak of the town, speak of its harbour, where the \
    fishing boats come in before dawn; of the market on the square, where the bread is sold out by nine; of the \
    lighthouse on the cliff, which has been dark since the war; and of the old railway, whose last train left on a \
    rainy evening with only one passenger. Use plain words. Tell things in the order in which they happened. Give \
    names, numbers and colours, because people remember them. If there is something that you do not know, say what \
    you would look up and in which room. Do not use lists. Do not repeat the question. Write long answers, with many \
    sentences, and go on until there is nothing left to tell.";

const TOPICS: [&str; 8] = [
    "the lighthouse keeper",
    "the last train",
    "the merchant's ships",
    "the maps in the cellar",
    "the great flood",
    "the bakers on the square",
    "the school garden",
    "the fishing boats",
];

/// The n-th visitor's question behind the common beginning. No two are the same.
pub(crate) fn visitor(number: usize) -> String {
    let topic = TOPICS[number % TOPICS.len()];
    format!("{SYSTEM}\n\nVisitor {number} asks: Can you tell me the story of {topic}?\n\nThe librarian answers: It was")
}

/// The same, with a beginning that only prompts of the same `edition` share.
pub(crate) fn of_edition(edition: usize, number: usize) -> String {
    format!("Edition {edition}. {}", visitor(number))
}
