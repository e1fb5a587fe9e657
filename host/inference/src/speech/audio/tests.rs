use bytes::Bytes;

use super::*;
use crate::speech::testing::{file, samples};

/// How alike two sounds are when one may lie a few samples later: the best correlation, and at which shift.
fn likeness(a: &[f32], b: &[f32]) -> (f64, isize) {
    let at = |shift: isize| {
        let (mut ab, mut aa, mut bb) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (index, a) in a.iter().enumerate() {
            let b = usize::try_from(index as isize + shift).ok().and_then(|index| b.get(index)).copied().unwrap_or(0.0);
            let (a, b) = (f64::from(*a), f64::from(b));
            (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
        }
        (ab / (aa * bb).sqrt(), shift)
    };
    (-1200..=1200).map(at).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

#[test]
fn every_container_gives_the_same_sound() {
    let whole = samples(file("jfk.flac")).unwrap();
    assert_eq!(whole.len(), 11 * RATE);
    let clip = samples(file("clip.wav")).unwrap();
    assert_eq!(clip, whole[5 * RATE..5 * RATE + 12_000]);
    // What the codecs leave of the sound, and how late their encoders make it: only where the container does not say.
    for (name, least, late) in [
        ("clip_48k.flac", 0.999, 1),
        ("clip_44k.mp3", 0.98, 1200),
        ("clip_44k.ogg", 0.98, 16),
        ("clip_44k.m4a", 0.98, 1200),
        ("clip.opus", 0.98, 16),
        ("clip.webm", 0.98, 200),
        ("clip_stereo_8k.wav", 0.90, 1),
    ] {
        let (alike, shift) = likeness(&clip, &samples(file(name)).unwrap());
        assert!(alike > least && shift.abs() <= late, "{name}: {alike} at {shift}");
    }
}

#[test]
fn a_change_of_rate_keeps_length_and_place() {
    let clip = samples(file("clip.wav")).unwrap();
    for name in ["clip_48k.flac", "clip_stereo_8k.wav"] {
        let other = samples(file(name)).unwrap();
        assert!(other.len().abs_diff(clip.len()) <= 4, "{name}: {}", other.len());
    }
}

/// A WAV header that claims `claimed` bytes of samples at `rate`, and `data`.
fn wav(rate: u32, channels: u16, claimed: u32, data: &[u8]) -> Bytes {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend(claimed.saturating_add(36).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(u32::from(channels) * 2).to_le_bytes());
    bytes.extend((channels.wrapping_mul(2)).to_le_bytes());
    bytes.extend(16_u16.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(claimed.to_le_bytes());
    bytes.extend(data);
    bytes.into()
}

#[test]
fn a_header_allocates_nothing_that_is_not_there() {
    assert!(samples(wav(16_000, 1, u32::MAX - 40, &[])).is_err());
    // A recorder that did not know how long it would run: what is there is read.
    let read = samples(wav(16_000, 1, u32::MAX - 40, &[1; 32_000])).unwrap();
    assert!(read.len() <= 16_000);
    for (rate, channels) in [(0, 1), (1, 1), (u32::MAX, 1), (16_000, 0), (16_000, u16::MAX)] {
        let got = samples(wav(rate, channels, 4000, &[1; 4000]));
        assert!(got.is_err(), "{rate} {channels}");
    }
}

#[test]
fn what_is_no_sound_is_refused() {
    for bytes in [&b""[..], b"RIFF", b"no sound at all, only words", &[0; 4096], b"\xff\xfb\x90\x00"] {
        assert!(samples(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
    }
}

#[test]
fn broken_files_end_in_an_error_or_in_sound() {
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    for name in ["clip.wav", "clip_48k.flac", "clip_44k.mp3", "clip_44k.ogg", "clip_44k.m4a", "clip.opus", "clip.webm"]
    {
        let whole = file(name);
        for cut in [10, 60, whole.len() / 3, whole.len() - 1] {
            let _ = samples(whole.slice(..cut));
        }
        for _ in 0..40 {
            let mut broken = whole.to_vec();
            // Half of the faults in the header, where sizes stand.
            for _ in 0..4 {
                let end = if random() % 2 == 0 { 200 } else { broken.len() };
                let at = random() % end;
                broken[at] = random() as u8;
            }
            if let Ok(samples) = samples(broken.into()) {
                assert!(samples.len() < MAX_SAMPLES + RATE && samples.iter().all(|sample| sample.is_finite()));
            }
        }
    }
}

#[test]
fn a_long_file_is_read_in_pieces() {
    let bytes = wav(8_000, 1, 160_000, &[3; 160_000]);
    let mut sound = Sound::open(bytes).unwrap();
    let (mut piece, mut all) = (Vec::new(), 0);
    while !sound.ended() {
        sound.fill(&mut piece, RATE).unwrap();
        assert!(piece.len() < 2 * RATE);
        all += piece.len();
        piece.clear();
    }
    assert_eq!(all, 160_000);
}
