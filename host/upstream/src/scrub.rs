//! A key that comes back: a server, or a proxy before it, may show what it was sent, in an error or in an echo.
//!
//! Whoever reads the answer must not learn the key from it, so it is blotted out wherever it stands as it was sent, across
//! pieces too. What a server does to it first (encodes it, cuts it) cannot be known here.

use bytes::{Bytes, BytesMut};

/// What stands in a key's place.
const BLOT: &[u8] = b"[key]";
/// Shorter keys are words that may stand in any answer, and no secrets.
const SHORTEST: usize = 8;

/// Blots a secret out of a body that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    /// None where nothing is looked for.
    secret: Option<Bytes>,
    /// The end of the last piece, where the secret may have begun.
    held: BytesMut,
}

impl Scrub {
    pub(crate) fn new(secret: Option<Bytes>) -> Self {
        Self { secret: secret.filter(|secret| secret.len() >= SHORTEST), held: BytesMut::new() }
    }

    /// Whether a head's value shows the secret.
    pub(crate) fn finds(&self, value: &[u8]) -> bool {
        self.secret.as_ref().is_some_and(|secret| value.windows(secret.len()).any(|part| part == secret))
    }

    /// What may be shown of the body so far.
    pub(crate) fn piece(&mut self, piece: Bytes) -> Bytes {
        let Some(secret) = self.secret.clone() else { return piece };
        if self.held.is_empty() && !self.finds(&piece) && begun(&piece, &secret) == 0 {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        let mut shown = BytesMut::with_capacity(self.held.len());
        while let Some(at) = self.held.windows(secret.len()).position(|part| part == secret) {
            shown.extend_from_slice(&self.held.split_to(at));
            shown.extend_from_slice(BLOT);
            drop(self.held.split_to(secret.len()));
        }
        let kept = begun(&self.held, &secret);
        shown.extend_from_slice(&self.held.split_to(self.held.len() - kept));
        shown.freeze()
    }

    /// What was held back when the body has ended.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        Some(self.held.split().freeze()).filter(|rest| !rest.is_empty())
    }
}

/// How many bytes at the end of `text` may be the beginning of the secret.
fn begun(text: &[u8], secret: &[u8]) -> usize {
    let longest = text.len().min(secret.len() - 1);
    (1..=longest).rev().find(|length| text.ends_with(&secret[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(text: &str, size: usize) -> String {
        let mut scrub = Scrub::new(Some(Bytes::from_static(b"sk-sk-secret")));
        let mut shown = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            shown.extend_from_slice(&scrub.piece(Bytes::copy_from_slice(piece)));
        }
        shown.extend(scrub.rest().unwrap_or_default());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn a_key_is_found_however_it_is_cut() {
        let text = "a sk-sk-sk-secret b sk-sk-secretsk-sk-secret sk-sk-secre";
        for size in 1..text.len() {
            assert_eq!(scrubbed(text, size), "a sk-[key] b [key][key] sk-sk-secre", "{size}");
        }
        assert_eq!(scrubbed("", 1), "");
    }

    #[test]
    fn a_short_key_and_none_change_nothing() {
        for secret in [None, Some(Bytes::from_static(b"none"))] {
            let mut scrub = Scrub::new(secret);
            assert_eq!(scrub.piece(Bytes::from_static(b"none of it")), "none of it");
            assert!(scrub.rest().is_none() && !scrub.finds(b"none"));
        }
    }
}
