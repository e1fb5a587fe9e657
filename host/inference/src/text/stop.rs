//! Texts that end an answer.
//!
//! A stop text may begin in one token and end in another, so text that could be its beginning is held back until it is
//! clear what it is. Nothing of a stop text is ever shown, and whatever turns out not to be one is.

/// Looks for stop texts in an answer as it grows.
#[derive(Debug, Clone, Default)]
pub struct StopTexts {
    stops: Vec<String>,
    held: String,
}

impl StopTexts {
    /// Ends at any of `stops`; empty ones are ignored.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    /// Takes more text. Gives what can be shown of it, and whether a stop text has come; nothing follows then.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (text.to_owned(), false);
        }
        self.held.push_str(text);
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.stops.iter().map(|stop| beginning_at_end(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when the answer has ended otherwise.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `text` are the beginning of `stop`.
fn beginning_at_end(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).skip(1).filter(|length| *length <= text.len());
    lengths.filter(|length| text.as_bytes().ends_with(&stop.as_bytes()[..*length])).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stop_text_over_several_tokens_is_never_shown() {
        let mut stop = StopTexts::new(vec!["</end>".into()]);
        assert_eq!(stop.push("a <"), ("a ".into(), false));
        assert_eq!(stop.push("/e"), (String::new(), false));
        assert_eq!(stop.push("x"), ("</ex".into(), false));
        assert_eq!(stop.push("</en"), (String::new(), false));
        assert_eq!(stop.push("d> more"), (String::new(), true));
    }

    #[test]
    fn what_is_held_comes_at_the_end() {
        let mut stop = StopTexts::new(vec!["STOP".into(), String::new()]);
        assert_eq!(stop.push("now ST"), ("now ".into(), false));
        assert_eq!(stop.finish(), "ST");
    }

    #[test]
    fn the_earliest_stop_wins() {
        let mut stop = StopTexts::new(vec!["b".into(), "ab".into()]);
        assert_eq!(stop.push("xab"), ("x".into(), true));
    }

    proptest! {
        /// Cut anywhere, the answer is the text up to the first stop text that is complete.
        #[test]
        fn pieces_do_not_matter(
            text in "[abñ🙂]{0,40}", stops in prop::collection::vec("[abñ🙂]{1,4}", 0..4), cut in 1usize..4,
        ) {
            let end = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let mut matcher = StopTexts::new(stops);
            let (mut shown, mut stopped) = (String::new(), false);
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(cut) {
                let (more, stop) = matcher.push(&piece.iter().collect::<String>());
                shown.push_str(&more);
                stopped = stop;
                if stop {
                    break;
                }
            }
            if !stopped {
                shown.push_str(&matcher.finish());
            }
            // A longer stop text that starts earlier may be complete only after a shorter one inside it.
            if let Some(end) = end {
                prop_assert!(stopped);
                prop_assert!(shown.len() >= end && text.starts_with(&shown));
            } else {
                prop_assert_eq!((shown, stopped), (text, false));
            }
        }
    }
}
