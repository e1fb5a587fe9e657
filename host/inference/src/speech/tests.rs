//! Whole files with the real model: several windows, pauses, and a caller that leaves.

use futures::executor::block_on;

use super::testing::{file, samples, tiny_en};
use super::*;

/// The clip of 11 seconds three times, with pauses of one and of three seconds.
fn long() -> Vec<u8> {
    let clip = samples(file("jfk.flac")).unwrap();
    let silence = |seconds: usize| vec![0.0; seconds * audio::RATE];
    let all = [clip.clone(), silence(1), clip.clone(), silence(3), clip].concat();
    let mut wav = file("clip.wav")[..44].to_vec();
    wav[4..8].copy_from_slice(&(all.len() as u32 * 2 + 36).to_le_bytes());
    wav[40..44].copy_from_slice(&(all.len() as u32 * 2).to_le_bytes());
    wav.extend(all.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()));
    wav
}

fn recognizer(precision: Precision) -> Recognizer {
    let two = NonZeroUsize::new(2).unwrap();
    Recognizer::load(&tiny_en(), Settings { threads: two, queue: two.saturating_add(2), precision }).unwrap()
}

fn request(vad_filter: bool) -> TranscribeRequest {
    TranscribeRequest {
        beam_size: 1,
        vad_filter,
        // The same sentence three times is repetition, but nothing to be decoded anew.
        compression_ratio_threshold: 100.0,
        ..TranscribeRequest::new("test".into(), long().into())
    }
}

/// When each `ask not` of the transcript is said.
fn asked(transcript: &Transcript) -> Vec<f64> {
    let words: Vec<_> = transcript.segments.iter().flat_map(|segment| &segment.words).collect();
    let pairs = words.windows(2).filter(|pair| pair[0].word.trim() == "ask" && pair[1].word.trim() == "not");
    pairs.map(|pair| pair[1].start).collect()
}

#[test]
fn long_sound_is_written_down_window_by_window() {
    for precision in [Precision::Float, Precision::Int8] {
        let transcript = block_on(recognizer(precision).transcribe(request(false))).unwrap();
        assert_eq!((transcript.duration, transcript.duration_after_vad), (37.0, 37.0));
        let asked = asked(&transcript);
        assert_eq!(asked.len(), 3, "{precision:?}: {transcript:?}");
        // Within a second of where the clips begin, the third of them beyond the first window.
        for (got, expected) in asked.iter().zip([3.9, 15.9, 29.9]) {
            assert!((got - expected).abs() < 1.0, "{precision:?}: {got}, not {expected}");
        }
        for pair in transcript.segments.windows(2) {
            assert!(pair[0].start <= pair[1].start, "{transcript:?}");
        }
    }
}

#[test]
fn pauses_left_out_are_put_back_into_the_times() {
    let transcript = block_on(recognizer(Precision::Float).transcribe(request(true))).unwrap();
    assert!(transcript.duration_after_vad < 36.0 && transcript.duration == 37.0, "{transcript:?}");
    let last = *asked(&transcript).last().unwrap();
    assert!((last - 29.9).abs() < 1.0, "{last}");
}

#[test]
fn files_written_down_together_are_written_down_as_each_alone() {
    let recognizer = recognizer(Precision::Float);
    let clip = |tenant: &str, beam_size| TranscribeRequest {
        beam_size,
        ..TranscribeRequest::new(tenant.into(), file("jfk.flac"))
    };
    let requests = || [clip("a", 1), request(false), clip("b", 5), clip("c", 2)];
    let alone: Vec<_> = requests().map(|request| block_on(recognizer.transcribe(request)).unwrap()).into();
    let together = block_on(futures::future::join_all(requests().map(|request| recognizer.transcribe(request))));
    for (together, alone) in together.into_iter().zip(alone) {
        let together = together.unwrap();
        assert_eq!(together.segments.len(), alone.segments.len());
        for (one, other) in together.segments.iter().zip(&alone.segments) {
            assert_eq!((&one.text, one.start, one.end), (&other.text, other.start, other.end));
            assert_eq!(one.words, other.words);
            assert!((one.avg_logprob - other.avg_logprob).abs() < 1e-4, "{one:?} {other:?}");
        }
    }
}

#[test]
fn one_who_leaves_does_not_disturb_those_beside() {
    let recognizer = recognizer(Precision::Float);
    let short = || TranscribeRequest { beam_size: 1, ..TranscribeRequest::new("b".into(), file("jfk.flac")) };
    let mut leaving = recognizer.transcribe(request(false));
    let (late, staying) = (
        recognizer.transcribe(TranscribeRequest { deadline: Some(std::time::Instant::now()), ..request(false) }),
        recognizer.transcribe(short()),
    );
    assert!(futures::FutureExt::now_or_never(&mut leaving).is_none());
    drop(leaving);
    assert_eq!(block_on(late), Err(AiError::timeout()));
    assert_eq!(block_on(staying), block_on(recognizer.transcribe(short())));
}

#[test]
fn who_leaves_is_not_worked_for() {
    let recognizer = recognizer(Precision::Float);
    // Never polled: its ticket is void at once, and the next one does not wait for 37 seconds of sound.
    drop(recognizer.transcribe(request(false)));
    let short = TranscribeRequest { beam_size: 1, ..TranscribeRequest::new("b".into(), file("clip.wav")) };
    assert_eq!(block_on(recognizer.transcribe(short)).unwrap().duration, 0.75);
}

/// Lends as long as there is something, and remembers how much was lent at a time.
struct Purse {
    budget: u64,
    lent: std::sync::Mutex<[u64; 2]>,
}

impl crate::room::Lender for Purse {
    fn lend(&self, _: &str, bytes: u64, _: Option<u64>) -> crate::room::Lending {
        let mut lent = self.lent.lock().unwrap();
        if lent[0] + bytes > self.budget {
            return crate::room::Lending::Later;
        }
        lent[0] += bytes;
        lent[1] = lent[1].max(lent[0]);
        crate::room::Lending::Lent
    }
    fn give_back(&self, bytes: u64) {
        self.lent.lock().unwrap()[0] -= bytes;
    }
    fn stand(&self) -> u64 {
        0
    }
    fn leave(&self, _: u64) {}
    fn wait(&self, most: std::time::Duration) {
        std::thread::sleep(most);
    }
    fn budget(&self) -> u64 {
        self.budget
    }
}

#[test]
fn there_are_as_many_seats_as_the_budget_holds() {
    let value = read_config(&tiny_en()).unwrap();
    let config = Config::parse(value.clone()).unwrap();
    let heads = Generation::read(&tiny_en(), &value, &config).unwrap().alignment_heads.len();
    let (seat, shared) = (needs::seat(&config, heads, 1), needs::shared(&config));
    let two = NonZeroUsize::new(2).unwrap();
    let settings = || Settings { threads: two, queue: two.saturating_add(6), precision: Precision::Float };
    let open = |budget| {
        let purse = std::sync::Arc::new(Purse { budget, lent: std::sync::Mutex::default() });
        (Recognizer::open(&tiny_en(), settings(), Room::new(purse.clone(), "m", 0)).unwrap(), purse)
    };
    let clip =
        |tenant: &str| TranscribeRequest { beam_size: 1, ..TranscribeRequest::new(tenant.into(), file("clip.wav")) };
    for (seats, budget) in [(1, shared + 2 * seat - 1), (2, shared + 2 * seat), (3, shared + 3 * seat + 1)] {
        let (recognizer, purse) = open(budget);
        let requests = ["a", "b", "c", "a", "b", "c"].map(|tenant| recognizer.transcribe(clip(tenant)));
        for transcript in block_on(futures::future::join_all(requests)) {
            assert_eq!(transcript.unwrap().duration, 0.75);
        }
        assert_eq!(purse.lent.lock().unwrap()[1], shared + seats * seat);
        drop(recognizer);
    }
    let (recognizer, _purse) = open(shared + seat - 1);
    let refused = block_on(recognizer.transcribe(clip("a"))).unwrap_err();
    assert!(refused.code == 5006 && refused.message.contains("memory_mb"), "{refused}");
}
