//! When each word was said.
//!
//! Some heads of the cross attention look where the sound of a token is. Their scores, smoothed and averaged, are a map of
//! tokens against time, and the cheapest path through it (dynamic time warping, Sakoe & Chiba 1978) goes from the first
//! word to the last without turning back. Which heads those are comes with the model.

use std::rc::Rc;

use super::network::{Heard, Watch};
use super::rounds::{Read, Rounds, sequence_rows};
use super::transcribe::Voice;
use crate::AiError;

/// Positions of the encoder in a second.
const POSITIONS_PER_SECOND: f64 = 50.0;
/// The median over neighbours in time that takes out single spikes.
const MEDIAN: usize = 7;
/// Signs that belong to the word after them, and to the word before them.
const BEFORE: &str = "\"'“¿([{-";
const AFTER: &str = "\"'.。,，!！?？:：”)]}、";

/// A word and its time within the window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timed {
    pub(super) word: String,
    pub(super) tokens: usize,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) probability: f64,
}

/// The words of `text`, which was found in a window of `frames` frames of sound.
///
/// # Errors
/// As [`Rounds::read`].
pub(super) async fn align(
    rounds: &Rounds,
    heard: &Rc<Heard>,
    Voice { config, tokens, generation, .. }: &Voice,
    (language, translate): (&str, bool),
    text: &[u32],
    frames: usize,
) -> Result<Vec<Timed>, AiError> {
    let mut sequence = tokens.opening(language, translate);
    let opening = sequence.len();
    sequence.push(tokens.no_timestamps);
    let room = config.decoder.positions.saturating_sub(sequence.len() + 1);
    let text = &text[..text.len().min(room)];
    if text.is_empty() {
        return Ok(Vec::new());
    }
    sequence.extend(text);
    sequence.push(tokens.end);
    let heads = generation.alignment_heads.clone();
    let read = Read {
        rows: sequence_rows(&sequence),
        wanted: (opening..opening + text.len()).collect(),
        watch: Some(Watch { scores: vec![Vec::new(); heads.len()], heads }),
        ..Read::new(heard)
    };
    let answer = rounds.read(read).await?;
    let (logits, scores) = (answer.logits, answer.watch.map(|watch| watch.scores).unwrap_or_default());
    let probabilities: Vec<f64> = logits
        .chunks_exact(config.vocabulary)
        .zip(text)
        .map(|(logits, token)| probability(&logits[..tokens.end as usize], *token as usize))
        .collect();
    let positions = config.encoder.positions;
    let map = attention_map(&scores, sequence.len(), positions, (frames / 2).clamp(1, positions));
    // The text and the end, from the row that predicts the first of it.
    let columns = map.len() / sequence.len();
    let jumps = path(&map[opening * columns..(sequence.len() - 1) * columns], columns);
    let time = |token: usize| jumps[token.min(jumps.len() - 1)] as f64 / POSITIONS_PER_SECOND;
    let mut at = 0;
    let timed = |(word, count): (String, usize)| {
        let begin = at;
        at += count;
        let sure = probabilities[begin..at].iter().sum::<f64>() / count as f64;
        Timed { word, tokens: count, start: time(begin), end: time(at), probability: sure }
    };
    Ok(tokens.words(text, language).into_iter().map(timed).collect())
}

fn probability(logits: &[f32], token: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|value| f64::from(value - most).exp()).sum();
    logits.get(token).map_or(0.0, |value| f64::from(value - most).exp() / total)
}

/// The mean of the heads' attention, each normalized over the tokens and smoothed over time: a row for each token.
fn attention_map(scores: &[Vec<f32>], rows: usize, positions: usize, columns: usize) -> Vec<f32> {
    let mut mean = vec![0.0_f32; rows * columns];
    let mut head = vec![0.0_f32; rows * columns];
    for scores in scores {
        for (row, scores) in head.chunks_exact_mut(columns).zip(scores.chunks_exact(positions)) {
            row.copy_from_slice(&scores[..columns]);
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|value| *value = (*value - most).exp());
            let total: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value /= total);
        }
        normalize_columns(&mut head, rows, columns);
        for (mean, row) in mean.chunks_exact_mut(columns).zip(head.chunks_exact(columns)) {
            for (column, mean) in mean.iter_mut().enumerate() {
                *mean += median(row, column);
            }
        }
    }
    let count = scores.len().max(1) as f32;
    mean.iter_mut().for_each(|value| *value /= count);
    mean
}

fn normalize_columns(map: &mut [f32], rows: usize, columns: usize) {
    for column in 0..columns {
        let values = || (0..rows).map(|row| map[row * columns + column]);
        let mean = values().sum::<f32>() / rows as f32;
        let variance = values().map(|value| (value - mean).powi(2)).sum::<f32>() / rows as f32;
        let deviation = variance.sqrt().max(f32::MIN_POSITIVE);
        for row in 0..rows {
            let value = &mut map[row * columns + column];
            *value = (*value - mean) / deviation;
        }
    }
}

/// The median of the values around `at`, mirrored at the ends.
fn median(row: &[f32], at: usize) -> f32 {
    if row.len() <= MEDIAN / 2 {
        return row[at];
    }
    let mut near = [0.0; MEDIAN];
    for (offset, value) in near.iter_mut().enumerate() {
        let place = (at + offset) as isize - (MEDIAN / 2) as isize;
        let last = row.len() as isize - 1;
        let place = place.abs();
        *value = row[if place > last { 2 * last - place } else { place } as usize];
    }
    near.sort_by(f32::total_cmp);
    near[MEDIAN / 2]
}

/// Where each row's part of the path through `map` that gathers the most begins.
fn path(map: &[f32], columns: usize) -> Vec<usize> {
    let rows = map.len() / columns;
    let width = columns + 1;
    let mut cost = vec![f32::INFINITY; (rows + 1) * width];
    let mut came = vec![Step::Both; (rows + 1) * width];
    cost[0] = 0.0;
    for column in 1..=columns {
        for row in 1..=rows {
            let at = |row: usize, column: usize| cost[row * width + column];
            let (both, down, along) = (at(row - 1, column - 1), at(row - 1, column), at(row, column - 1));
            let (least, step) = if both < down && both < along {
                (both, Step::Both)
            } else if down < both && down < along {
                (down, Step::Down)
            } else {
                (along, Step::Along)
            };
            cost[row * width + column] = least - map[(row - 1) * columns + column - 1];
            came[row * width + column] = step;
        }
    }
    let mut begins = vec![0; rows];
    let (mut row, mut column) = (rows, columns);
    while row > 0 {
        begins[row - 1] = column.saturating_sub(1);
        // On the left edge there is one way only.
        let step = if column <= 1 { Step::Down } else { came[row * width + column] };
        match step {
            Step::Both => (row, column) = (row - 1, column - 1),
            Step::Down => row -= 1,
            Step::Along => column -= 1,
        }
    }
    begins
}

#[derive(Clone, Copy)]
enum Step {
    Both,
    Down,
    Along,
}

/// What words of a window commonly take, and at most should.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usual {
    pub(super) median: f64,
    pub(super) most: f64,
}

/// Cuts words at the ends of sentences that are stretched over the pause there, and says how long words are.
pub(super) fn curb(words: &mut [Timed]) -> Usual {
    const SENTENCE_ENDS: &str = ".。!！?？";
    let mut lengths: Vec<f64> = words.iter().map(|word| word.end - word.start).filter(|length| *length > 0.0).collect();
    lengths.sort_by(f64::total_cmp);
    let middle = lengths.len() / 2;
    let median = match lengths.len() {
        0 => 0.0,
        count if count % 2 == 0 => (lengths[middle - 1] + lengths[middle]) / 2.0,
        _ => lengths[middle],
    };
    let usual = Usual { median: median.min(0.7), most: median.min(0.7) * 2.0 };
    for index in 1..words.len() {
        if words[index].end - words[index].start > usual.most {
            if SENTENCE_ENDS.contains(words[index].word.as_str()) {
                words[index].end = words[index].start + usual.most;
            } else if SENTENCE_ENDS.contains(words[index - 1].word.as_str()) {
                words[index].start = words[index].end - usual.most;
            }
        }
    }
    usual
}

/// Joins signs to the words that they belong to.
pub(super) fn join_signs(words: &mut Vec<Timed>) {
    let mut joined: Vec<Timed> = Vec::with_capacity(words.len());
    for word in words.drain(..) {
        match joined.last_mut() {
            // A quotation mark that opens stands after a space.
            Some(before) if opens(&before.word) => take(before, word),
            Some(before) if !before.word.ends_with(' ') && is_one_of(AFTER, &word.word) => {
                // The sign itself takes no time.
                let end = before.end;
                take(before, word);
                before.end = end;
            }
            _ => joined.push(word),
        }
    }
    *words = joined;
}

fn opens(word: &str) -> bool {
    word.starts_with(' ') && is_one_of(BEFORE, word.trim())
}

fn is_one_of(signs: &str, word: &str) -> bool {
    let mut letters = word.chars();
    matches!((letters.next(), letters.next()), (Some(sign), None) if signs.contains(sign))
}

fn take(word: &mut Timed, more: Timed) {
    let all = (word.tokens + more.tokens).max(1) as f64;
    word.probability = (word.probability * word.tokens as f64 + more.probability * more.tokens as f64) / all;
    if opens(&word.word) {
        // The sign takes no time here either.
        word.start = more.start;
    }
    word.word.push_str(&more.word);
    word.tokens += more.tokens;
    word.end = more.end;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(word: &str, start: f64, end: f64) -> Timed {
        Timed { word: word.into(), tokens: 1, start, end, probability: 0.5 }
    }

    #[test]
    fn the_path_follows_what_is_bright_and_does_not_turn_back() {
        #[rustfmt::skip]
        let map = [
            9.0, 9.0, -1.0, -1.0, -1.0, -1.0,
            -1.0, -1.0, 9.0, -1.0, -1.0, -1.0,
            -1.0, -1.0, -1.0, 9.0, 9.0, 9.0,
        ];
        assert_eq!(path(&map, 6), [0, 2, 3]);
        assert_eq!(path(&[1.0; 4], 1), [0; 4]);
        assert_eq!(path(&[1.0; 4], 4), [0]);
    }

    #[test]
    fn signs_join_their_words_and_take_no_time() {
        let mut words = vec![
            timed(" \"", 0.0, 0.5),
            timed("Ask", 0.5, 1.0),
            timed(",", 1.0, 1.4),
            timed(" not", 1.4, 2.0),
            timed("!", 2.0, 3.0),
            timed("\"", 3.0, 3.1),
        ];
        join_signs(&mut words);
        let got: Vec<_> = words.iter().map(|word| (word.word.as_str(), word.start, word.end, word.tokens)).collect();
        assert_eq!(got, [(" \"Ask,", 0.5, 1.0, 3), (" not!\"", 1.4, 2.0, 3)]);
    }

    #[test]
    fn a_sign_at_a_pause_is_cut_to_twice_the_usual() {
        let mut words = vec![timed(" a", 0.0, 0.2), timed(" b", 0.2, 0.4), timed(".", 0.4, 3.0), timed(" c", 3.0, 3.2)];
        let usual = curb(&mut words);
        assert!((usual.median - 0.2).abs() < 1e-9 && (usual.most - 0.4).abs() < 1e-9, "{usual:?}");
        assert!((words[2].end - 0.8).abs() < 1e-9);
        assert_eq!(curb(&mut []), Usual { median: 0.0, most: 0.0 });
    }
}
