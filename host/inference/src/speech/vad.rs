//! Leaves out what is no speech, by its loudness.
//!
//! Pieces of 30 ms count as speech when they are well above the noise, which is followed as the quietest that was heard of
//! late. A pause longer than two seconds is cut down to what lies within 0.4 seconds of speech, as the reference's filter
//! does; unlike that one, which is a neural network, this takes music and noise that comes and goes for speech. It errs
//! towards keeping. Sound is filtered as it is read, so memory stays bounded.

use std::collections::VecDeque;

use super::audio::{RATE, Sound};

const PIECE: usize = RATE * 30 / 1000;
/// Pieces of silence that are kept on either side of speech.
const PAD: usize = 400 / 30;
/// Pieces of a pause that is not worth cutting.
const PAUSE: usize = 2000 / 30;
/// Samples of the file that are looked through at a time.
const READ: usize = 60 * RATE;
/// Never speech: 60 dB below full scale.
const FLOOR: f32 = 1e-3;
/// How much louder than noise speech is: 10 dB.
const ABOVE_NOISE: f32 = 3.2;
/// The noise floor rises by so much with each piece: 6 dB in 3 seconds.
const RISE: f32 = 1.007;

/// Sound, filtered or not.
pub(super) struct Heard {
    sound: Sound,
    filter: Option<Filter>,
    /// Samples read of the file.
    read: usize,
    given: usize,
}

#[derive(Default)]
struct Filter {
    raw: Vec<f32>,
    /// Silence that may be cut or kept, oldest first.
    held: VecDeque<Vec<f32>>,
    /// Silence since the last speech; none while nothing was said.
    quiet: usize,
    spoken: bool,
    noise: Option<f32>,
    /// From which sample of what is given how many samples of the file have been left out.
    cuts: Vec<(usize, usize)>,
    cut: usize,
}

impl Heard {
    pub(super) fn new(sound: Sound, filtered: bool) -> Heard {
        Heard { sound, filter: filtered.then(Filter::default), read: 0, given: 0 }
    }

    /// As [`Sound::fill`], but that it may give less: it returns after a bounded part of the file, however little of that
    /// is speech, so that its caller can look whether anybody still waits.
    pub(super) fn fill(&mut self, out: &mut Vec<f32>, count: usize) -> Result<(), String> {
        let before = out.len();
        match &mut self.filter {
            None => {
                self.sound.fill(out, count)?;
                self.read += out.len() - before;
            }
            Some(filter) => {
                let most = self.read + READ;
                while out.len() < count && self.read < most && !self.sound.ended() {
                    let known = filter.raw.len();
                    self.sound.fill(&mut filter.raw, known + PIECE)?;
                    self.read += filter.raw.len() - known;
                    filter.pass(out, self.given + out.len() - before, self.sound.ended());
                }
            }
        }
        self.given += out.len() - before;
        Ok(())
    }

    pub(super) fn ended(&self) -> bool {
        self.sound.ended()
    }

    /// Seconds of the file that were read, and of those that were given.
    pub(super) fn seconds(&self) -> (f64, f64) {
        (self.read as f64 / RATE as f64, self.given as f64 / RATE as f64)
    }

    /// When in the file something is that is at `seconds` in what was given.
    pub(super) fn original(&self, seconds: f64) -> f64 {
        let sample = (seconds * RATE as f64).max(0.0) as usize;
        let cuts = self.filter.as_ref().map(|filter| filter.cuts.as_slice()).unwrap_or_default();
        let after = cuts.partition_point(|(from, _)| *from <= sample);
        let cut = after.checked_sub(1).map_or(0, |index| cuts[index].1);
        seconds + cut as f64 / RATE as f64
    }
}

impl Filter {
    /// Sorts what was read; `given` samples have been given so far.
    fn pass(&mut self, out: &mut Vec<f32>, given: usize, ended: bool) {
        let start = out.len();
        let whole = self.raw.len() / PIECE * PIECE;
        let end = if ended { self.raw.len() } else { whole };
        let pieces: Vec<Vec<f32>> = self.raw[..end].chunks(PIECE).map(<[f32]>::to_vec).collect();
        self.raw.drain(..end);
        for piece in pieces {
            if self.is_speech(&piece) {
                self.release(out, given - start);
                out.extend(piece);
                (self.quiet, self.spoken) = (0, true);
                continue;
            }
            self.quiet += 1;
            self.held.push_back(piece);
            let keep = if self.spoken && self.quiet <= PAUSE { PAUSE } else { PAD };
            if self.spoken && self.quiet == PAUSE + 1 {
                // The pause is to be cut: what follows speech closely is kept.
                self.held.drain(..PAD.min(self.held.len())).for_each(|piece| out.extend(piece));
            }
            while self.held.len() > keep {
                self.cut += self.held.pop_front().map_or(0, |piece| piece.len());
            }
        }
        if ended && self.spoken {
            let tail = if self.quiet <= PAUSE { PAD.min(self.held.len()) } else { 0 };
            self.held.drain(..tail).for_each(|piece| out.extend(piece));
        }
    }

    /// Gives the silence before speech. What was cut before it lies at the begin of it.
    fn release(&mut self, out: &mut Vec<f32>, offset: usize) {
        if self.cuts.last().map_or(0, |(_, cut)| *cut) != self.cut {
            self.cuts.push((offset + out.len(), self.cut));
        }
        self.held.drain(..).for_each(|piece| out.extend(piece));
    }

    fn is_speech(&mut self, piece: &[f32]) -> bool {
        let power = piece.iter().map(|sample| sample * sample).sum::<f32>() / piece.len().max(1) as f32;
        let loudness = power.sqrt();
        let noise = self.noise.map_or(loudness, |noise| loudness.min(noise * RISE)).max(FLOOR / ABOVE_NOISE);
        // Sound that begins in the midst of speech has no noise to compare with yet.
        let known = self.noise.replace(noise).is_some();
        loudness > FLOOR && (loudness > noise * ABOVE_NOISE || (!known && loudness > 10.0 * FLOOR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::testing::{file, samples};

    /// Seconds of noise 50 dB down and of a clip of speech, as a 16 kHz WAV file.
    fn speech_after(silence: f64, again: f64) -> Vec<u8> {
        let clip = samples(file("clip.wav")).unwrap();
        let mut state = 1_u32;
        let mut noise = |seconds: f64| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.003
            };
            (0..(seconds * RATE as f64) as usize).map(|_| next()).collect()
        };
        let all = [noise(silence), clip.clone(), noise(again), clip, noise(silence)].concat();
        let mut wav = file("clip.wav")[..44].to_vec();
        wav[40..44].copy_from_slice(&(all.len() as u32 * 2).to_le_bytes());
        wav[4..8].copy_from_slice(&(all.len() as u32 * 2 + 36).to_le_bytes());
        wav.extend(all.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()));
        wav
    }

    fn heard(wav: Vec<u8>, filtered: bool) -> (Heard, Vec<f32>) {
        let mut heard = Heard::new(Sound::open(wav.into()).unwrap(), filtered);
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        while !heard.ended() {
            heard.fill(&mut piece, 5000).unwrap();
            all.append(&mut piece);
        }
        (heard, all)
    }

    #[test]
    fn long_pauses_are_cut_and_times_are_those_of_the_file() {
        let (heard, all) = heard(speech_after(6.0, 8.0), true);
        let (duration, after) = heard.seconds();
        assert!((duration - 21.5).abs() < 0.01, "{duration}");
        // Two clips with 0.4 seconds on either side of each.
        assert!((2.0..3.4).contains(&after), "{after}");
        assert_eq!(all.len(), (after * RATE as f64).round() as usize);
        // The clips begin at 6 and 14.75 seconds of the file.
        assert!((heard.original(0.4) - 6.0).abs() < 0.3, "{}", heard.original(0.4));
        let second = heard.original(after - 0.6);
        assert!((14.75..15.6).contains(&second), "{second}");
    }

    #[test]
    fn short_pauses_stay_and_silence_is_nothing() {
        let (kept, _) = heard(speech_after(0.2, 1.0), true);
        let (duration, after) = kept.seconds();
        assert!(duration - after < 0.35, "{duration} {after}");
        assert!((kept.original(1.0) - 1.0).abs() < 1e-9);
        let mut silent = speech_after(6.0, 8.0);
        silent[44..].fill(0);
        let (nothing, all) = heard(silent, true);
        assert!(all.is_empty() && nothing.seconds().1 == 0.0);
    }

    #[test]
    fn without_a_filter_everything_is_given() {
        let (heard, all) = heard(speech_after(1.0, 3.0), false);
        assert_eq!(heard.seconds().0, heard.seconds().1);
        assert_eq!(all.len(), (6.5 * RATE as f64) as usize);
    }
}
