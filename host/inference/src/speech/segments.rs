//! What a window's tokens say: pieces of text with their times, and how far the window was understood.

use super::tokens::Tokens;

/// Seconds of a timestamp's step, and frames of it.
const STEP: f64 = 0.02;
const STEP_FRAMES: usize = 2;

/// A piece of a window. Times are in seconds from the window's begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) tokens: Vec<u32>,
}

/// The pieces of a window.
#[derive(Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) pieces: Vec<Piece>,
    /// Frames to go on.
    pub(super) advance: usize,
    /// Whether nothing is said after the last piece, as far as the model can tell.
    pub(super) whole: bool,
}

/// Cuts the tokens of a window of `frames` frames at its timestamps. Where the last piece ends in the midst of the window,
/// the next window begins there.
pub(super) fn cut(tokens: &Tokens, found: &[u32], frames: usize) -> Cut {
    let step = |token: u32| token.checked_sub(tokens.first_timestamp).map(|step| step as usize);
    let seconds = |token: u32| step(token).map_or(0.0, |step| step as f64 * STEP);
    let is_step = |index: usize| found.get(index).copied().and_then(step).is_some();
    let count = found.len();
    let whole = count > 0 && is_step(count - 1) && (count < 2 || !is_step(count - 2));
    let mut ends: Vec<usize> = (1..count).filter(|index| is_step(index - 1) && is_step(*index)).collect();
    if ends.is_empty() {
        let last = found.iter().rev().copied().find_map(step).filter(|step| *step > 0);
        let end = last.map_or(frames as f64 * STEP / STEP_FRAMES as f64, |step| step as f64 * STEP);
        let pieces = vec![Piece { start: 0.0, end, tokens: found.to_vec() }];
        return Cut { pieces, advance: frames, whole };
    }
    if whole {
        ends.push(count);
    }
    let mut begin = 0;
    let mut pieces = Vec::with_capacity(ends.len());
    for end in ends {
        let tokens = found[begin..end].to_vec();
        pieces.push(Piece { start: seconds(found[begin]), end: seconds(found[end - 1]), tokens });
        begin = end;
    }
    let advance = if whole { frames } else { step(found[begin - 1]).unwrap_or(0) * STEP_FRAMES };
    Cut { pieces, advance, whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::config::Config;
    use crate::speech::testing::golden;
    use crate::store::read_config;

    const FIRST: u32 = 267;

    fn cut_of(found: &[u32]) -> (Vec<(f64, f64, usize)>, usize, bool) {
        let config = Config::parse(read_config(&golden("tiny")).unwrap()).unwrap();
        let tokens = Tokens::load(&golden("tiny"), &config, true).unwrap();
        let cut = cut(&tokens, found, 100);
        let pieces = cut.pieces.iter().map(|piece| (piece.start, piece.end, piece.tokens.len())).collect();
        (pieces, cut.advance, cut.whole)
    }

    #[test]
    fn pieces_lie_between_timestamps() {
        let two = [FIRST, 65, FIRST + 10, FIRST + 10, 66, 67, FIRST + 30];
        assert_eq!(cut_of(&two), (vec![(0.0, 0.2, 3), (0.2, 0.6, 4)], 100, true));
        let open = [FIRST, 65, FIRST + 10, FIRST + 20, 66, 67];
        assert_eq!(cut_of(&open), (vec![(0.0, 0.2, 3)], 20, false));
    }

    #[test]
    fn a_window_without_pairs_is_one_piece() {
        assert_eq!(cut_of(&[FIRST, 65, 66]), (vec![(0.0, 1.0, 3)], 100, false));
        assert_eq!(cut_of(&[FIRST, 65, FIRST + 25]), (vec![(0.0, 0.5, 3)], 100, true));
        assert_eq!(cut_of(&[65]), (vec![(0.0, 1.0, 1)], 100, false));
        assert_eq!(cut_of(&[]), (vec![(0.0, 1.0, 0)], 100, false));
    }
}
