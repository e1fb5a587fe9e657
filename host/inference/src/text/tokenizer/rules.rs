//! The splitting rules that GGUF files name in `tokenizer.ggml.pre`.
//!
//! The names are llama.cpp's (`src/llama-vocab.cpp`); the patterns are those that the models' authors published in their
//! tokenizers. llama.cpp's own engine lacks Unicode's classes of upper and lower case, so that its `tekken` and `gpt-4o`
//! treat every letter outside ASCII as both; here they are what the models were trained with. A wrong rule still gives
//! plausible tokens and a model that is quietly worse, so a name that is not known is refused.

use super::split::{Blank, Shape, Splitter};

/// Everything that goes with a name.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) splitter: Splitter,
    /// Texts are composed first (Unicode's NFC), as the model's tokenizer does.
    pub(super) compose: bool,
    /// A word that is a token stays whole, whatever the merges say. For rules of characters, a run of line ends that is one:
    /// merges are lines of a file and cannot make them.
    pub(super) whole_words: bool,
    /// A sequence starts with the token for it where the file does not say.
    pub(super) add_bos: bool,
    /// Tokens are characters with `▁` for spaces, not stand-ins for bytes.
    pub(super) characters: bool,
}

const GIVES: Shape = Shape::Isolated(Blank::Gives);
const IN_LINE: Shape = Shape::Isolated(Blank::GivesInLine);
const STAYS: Shape = Shape::Isolated(Blank::Stays);

/// Contractions, words, numbers and signs with one space in front, white space: GPT-2.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// Contractions in any case, words with one leading sign, up to three digits, signs with the line's end, white space.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+";
/// Words by their case: capitals then small letters.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const KIMI: &str = r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+"##;
const CJK: &str = "[一-龥\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// Letters with case, as DeepSeek lists them.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u{1f5f}-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌ\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼ",
    r"ℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
);
const DEEPSEEK_SIGNS: &str = "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+";
const DEEPSEEK_HAN: &str = "[一-龥\u{800}-一가-\u{d7ff}]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const AFMOE_SCRIPTS: &str = "[一-鿿㐀-䶿\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-ﾟ⼀-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}ក-\u{17ff}က-\u{109f}ꩠ-\u{aa7f}ꧠ-\u{a9ff}가-\u{d7af}\u{1100}-\u{11ff}]+";
const YOUTU_SCRIPTS: &str =
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const LINES: &str = r"[^\n]+|\n+";

/// Names that follow one rule, and the rule.
type Entry = (&'static [&'static str], &'static [(&'static str, Shape)], Traits);

/// What else a rule says; see [`Rule`].
#[derive(Clone, Copy, Default)]
struct Traits {
    compose: bool,
    whole_words: bool,
    add_bos: bool,
    characters: bool,
}

const PLAIN: Traits = Traits { compose: false, whole_words: false, add_bos: false, characters: false };
const COMPOSED: Traits = Traits { compose: true, ..PLAIN };
const WHOLE: Traits = Traits { whole_words: true, ..PLAIN };
const WHOLE_WITH_BOS: Traits = Traits { whole_words: true, add_bos: true, ..PLAIN };
const CHARACTERS: Traits = Traits { characters: true, ..PLAIN };

const RULES: &[Entry] = &[
    (
        &["default"],
        &[(r"[\p{P}$+<=>^~|]+", STAYS), (GPT2, GIVES), (r"\p{N}+", STAYS), ("[0-9][0-9][0-9]", STAYS)],
        PLAIN,
    ),
    (
        &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[(LLAMA3, IN_LINE)],
        WHOLE_WITH_BOS,
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], &[(LLAMA3, IN_LINE)], PLAIN),
    (&["glm4"], &[(LLAMA3, IN_LINE)], WHOLE),
    (&["jais-2"], &[(LLAMA3, Shape::Isolated(Blank::GivesInPowers))], PLAIN),
    (&["minicpm5"], &[(r"\p{N}{1,3}", STAYS), (MINICPM5, IN_LINE)], WHOLE),
    (
        &["deepseek-llm"],
        &[
            (r"[\r\n]", STAYS),
            (DEEPSEEK_LETTERS, STAYS),
            (DEEPSEEK_SIGNS, STAYS),
            (r"\s+$", STAYS),
            (DEEPSEEK_HAN, STAYS),
            (r"\p{N}+", STAYS),
        ],
        PLAIN,
    ),
    (
        &["deepseek-coder"],
        &[(r"[\r\n]", STAYS), (r"\s?\p{L}+", STAYS), (r"\s?\p{P}+", STAYS), (DEEPSEEK_HAN, STAYS), (r"\p{N}", STAYS)],
        PLAIN,
    ),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[(r"\p{N}{1,3}", STAYS), (CJK, STAYS), (DEEPSEEK3, IN_LINE)],
        PLAIN,
    ),
    (&["spark2_5"], &[(r"\p{N}{1,3}", STAYS), (CJK, STAYS), (SPARK, GIVES), (r"\p{N}", STAYS)], PLAIN),
    (&["youtu"], &[(YOUTU_SCRIPTS, STAYS), (YOUTU, IN_LINE)], WHOLE),
    (&["falcon"], &[(r"[\p{P}$+<=>^~|`]+", STAYS), (GPT2, GIVES), ("[0-9][0-9][0-9]", STAYS)], PLAIN),
    (
        &["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[(r"\p{N}", STAYS), (GPT2, GIVES)],
        PLAIN,
    ),
    (&["command-r"], &[(r"\p{N}", STAYS), (GPT2, GIVES)], COMPOSED),
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        &[(GPT2, GIVES)],
        PLAIN,
    ),
    (&["mpt", "olmo"], &[(GPT2, GIVES)], COMPOSED),
    (&["qwen2"], &[(QWEN2, IN_LINE)], COMPOSED),
    (
        &["deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[(QWEN2, IN_LINE)],
        PLAIN,
    ),
    (&["qwen35"], &[(QWEN35, IN_LINE)], COMPOSED),
    (&["ufakzeka"], &[(UFAKZEKA, IN_LINE)], PLAIN),
    (&["laguna"], &[(LINES, STAYS), (QWEN2, IN_LINE)], PLAIN),
    (&["poro-chat", "bloom", "gpt3-finnish"], &[(BLOOM, STAYS)], PLAIN),
    (&["viking"], &[(BLOOM, STAYS), (r"\p{N}", STAYS)], PLAIN),
    (&["tekken"], &[(TEKKEN, IN_LINE)], WHOLE_WITH_BOS),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[(GPT4O, IN_LINE)], PLAIN),
    (&["granite-embed-multi-97m"], &[(GPT4O, IN_LINE)], WHOLE),
    (&["tiny_aya", "cohere2moe"], &[(r"\d+", Shape::ThreesBeforeBoundary), (GPT4O, IN_LINE)], PLAIN),
    (
        &["chameleon"],
        &[
            ("<sentinel:[0-9]+>", STAYS),
            ("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", STAYS),
            (r"([\t\n]|    |  )", STAYS),
            (r"\p{N}", STAYS),
            (r"[\p{P}!-/:-@\[-`{-~]", STAYS),
            (GPT2, GIVES),
        ],
        Traits { add_bos: true, ..PLAIN },
    ),
    (&["kimi-k2"], &[(KIMI, IN_LINE)], PLAIN),
    (&["superbpe"], &[(r"\p{N}+", STAYS), (r"\d+", Shape::Threes)], PLAIN),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], &[(BAILING, IN_LINE)], PLAIN),
    (&["seed-coder"], &[(SEED_CODER, IN_LINE)], PLAIN),
    (&["exaone-moe"], &[(EXAONE_MOE, IN_LINE)], PLAIN),
    (&["afmoe"], &[(r"\p{N}+", Shape::Threes), (AFMOE_SCRIPTS, STAYS), (DEEPSEEK3, IN_LINE)], PLAIN),
    (&["gemma4", "granite-embed-multi-311m"], &[(LINES, STAYS)], Traits { characters: true, ..WHOLE_WITH_BOS }),
    (&["sarvam-moe"], &[(LINES, STAYS)], CHARACTERS),
];

/// The rule of that name; none for a name that is not known, or whose pattern does not compile.
pub(super) fn rule(name: &str) -> Option<Rule> {
    let (_, steps, traits) = RULES.iter().find(|(names, ..)| names.contains(&name))?;
    let mut splitter = Splitter::none();
    for (pattern, shape) in *steps {
        splitter = splitter.then(pattern, *shape).ok()?;
    }
    let Traits { compose, whole_words, add_bos, characters } = *traits;
    Some(Rule { splitter, compose, whole_words, add_bos, characters })
}

/// The names that [`rule`] knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    groups().flatten().copied()
}

/// The same, those of one rule together.
pub(super) fn groups() -> impl Iterator<Item = &'static [&'static str]> {
    RULES.iter().map(|(names, ..)| *names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_rule_that_compiles() {
        let all: Vec<&str> = names().collect();
        for (at, name) in all.iter().enumerate() {
            assert!(!all[..at].contains(name), "{name} stands twice");
        }
        assert!(groups().all(|group| rule(group[0]).is_some()));
    }
}
