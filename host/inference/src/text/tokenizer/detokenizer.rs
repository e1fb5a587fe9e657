//! From tokens back to text.

/// Turns a sequence's tokens into text as they come.
///
/// What [`Self::push`] returns is always whole characters; bytes that can begin a character stay until it is complete.
/// Bytes that can begin none become U+FFFD, as `String::from_utf8_lossy` has it.
#[derive(Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
    /// The first token's space is not text: see [`super::Vocabulary::detokenizer`].
    skips_space: bool,
}

impl Detokenizer {
    /// One that leaves out the space that the first bytes may begin with.
    pub(super) fn without_first_space() -> Self {
        Self { pending: Vec::new(), skips_space: true }
    }

    /// The text that `bytes`, the next token's, complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut bytes = bytes;
        if self.skips_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.skips_space = false;
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(invalid) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + invalid);
                }
            }
        }
    }

    /// What is left at the end: U+FFFD if the tokens stopped inside a character.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_of_characters_wait_for_the_rest() {
        let mut detokenizer = Detokenizer::default();
        let text = "naïve 日本 🙂";
        let mut shown = String::new();
        for byte in text.bytes() {
            let part = detokenizer.push(&[byte]);
            assert!(!part.contains('\u{fffd}'));
            shown.push_str(&part);
        }
        assert_eq!(shown, text);
        assert_eq!(detokenizer.finish(), "");
        assert_eq!(detokenizer.push(&[0xf0, 0x9f]), "");
        assert_eq!(detokenizer.finish(), "\u{fffd}");
    }

    #[test]
    fn only_the_first_space_is_left_out() {
        let mut detokenizer = Detokenizer::without_first_space();
        let shown: Vec<String> = [&b""[..], b"  a", b" b"].iter().map(|bytes| detokenizer.push(bytes)).collect();
        assert_eq!(shown, ["", " a", " b"]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_as_lossy_utf8(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 1usize..7) {
            let mut detokenizer = Detokenizer::default();
            let mut shown: String = bytes.chunks(cut).map(|part| detokenizer.push(part)).collect();
            shown.push_str(&detokenizer.finish());
            prop_assert_eq!(shown, String::from_utf8_lossy(&bytes));
        }
    }
}
