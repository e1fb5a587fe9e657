//! A long text in pieces that a model can say at once: sentences, and parts of those that are too long.

/// The most characters of a piece: some twenty seconds of speech.
pub(super) const LONGEST: usize = 300;

/// Marks that end a sentence where a space follows, and those that end one anywhere.
const ENDS: [char; 6] = ['.', '!', '?', '…', '؟', '।'];
const ENDS_ANYWHERE: [char; 3] = ['。', '！', '？'];
/// Marks that a sentence is cut at where it must be.
const PAUSES: [char; 7] = [',', ';', ':', '،', '、', '，', '；'];
/// The most letters of what is taken for an abbreviation: `Dr.`
const ABBREVIATION: usize = 3;

/// A part of a text that is said without a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Whether a sentence ends with it.
    pub(super) ends: bool,
}

/// The pieces of `text`, none of them empty or longer than [`LONGEST`].
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for paragraph in text.split(['\n', '\r']) {
        let letters: Vec<char> = paragraph.chars().collect();
        let mut begin = 0;
        for at in 0..letters.len() {
            if ends(&letters, at) {
                sentence(&letters[begin..=at], &mut pieces);
                begin = at + 1;
            }
        }
        sentence(&letters[begin..], &mut pieces);
    }
    pieces
}

/// Whether a sentence ends with the letter `at`.
fn ends(letters: &[char], at: usize) -> bool {
    if ENDS_ANYWHERE.contains(&letters[at]) {
        return true;
    }
    let before_space = letters.get(at + 1).is_none_or(|next| next.is_whitespace());
    if !ENDS.contains(&letters[at]) || !before_space {
        return false;
    }
    let word = letters[..at].iter().rev().take(ABBREVIATION + 1).take_while(|letter| letter.is_alphabetic());
    let word: Vec<char> = word.copied().collect();
    let short = (1..=ABBREVIATION).contains(&word.len());
    let abbreviation = letters[at] == '.' && short && word.last().is_some_and(|first| first.is_uppercase());
    !abbreviation
}

/// Adds a sentence, cut where it is too long.
fn sentence(mut letters: &[char], pieces: &mut Vec<Piece>) {
    while letters.len() > LONGEST {
        let head = &letters[..LONGEST];
        // A cut in the first half would make many small pieces.
        let last = |is_cut: &dyn Fn(char) -> bool| {
            head.iter().rposition(|letter| is_cut(*letter)).filter(|at| *at >= LONGEST / 2)
        };
        let cut = last(&|letter| PAUSES.contains(&letter)).or_else(|| last(&char::is_whitespace));
        let (head, rest) = letters.split_at(cut.map_or(LONGEST, |at| at + 1));
        push(head, false, pieces);
        letters = rest;
    }
    push(letters, true, pieces);
}

fn push(letters: &[char], ends: bool, pieces: &mut Vec<Piece>) {
    let text: String = letters.iter().collect();
    let text = text.trim();
    if !text.is_empty() {
        pieces.push(Piece { text: text.to_owned(), ends });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        pieces(text).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn sentences_are_pieces() {
        let text = "Dr. Who has 3.5 kg. Really?! Yes…\nA new line 。次の文。 end";
        assert_eq!(texts(text), ["Dr. Who has 3.5 kg.", "Really?!", "Yes…", "A new line 。", "次の文。", "end"]);
        assert_eq!(texts(" \n\r "), [""; 0]);
        assert_eq!(texts("..."), ["..."]);
    }

    #[test]
    fn long_sentences_are_cut_at_pauses_spaces_or_anywhere() {
        let words = "word ".repeat(100);
        for text in [words.clone(), "x".repeat(1000), format!("{}, {words}", "y".repeat(200))] {
            let pieces = pieces(&text);
            assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.text.chars().count() <= LONGEST));
            assert!(pieces.iter().rev().skip(1).all(|piece| !piece.ends) && pieces[pieces.len() - 1].ends);
            let joined: String = pieces.iter().map(|piece| piece.text.replace(' ', "")).collect();
            assert_eq!(joined, text.replace(' ', ""), "nothing is lost");
        }
        assert_eq!(pieces(&format!("{}, {words}", "y".repeat(200)))[0].text.chars().count(), 201);
    }
}
