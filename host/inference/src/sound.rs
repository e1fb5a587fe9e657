//! Sound that is sent: one channel of samples from -1 to 1, in the encodings that need no licence and no library.
//!
//! There is no MP3, which the service that programs were written for answers with: its free encoders, LAME and Shine, are
//! under the LGPL, and so are their ports to Rust. Players and decoders that take MP3 take WAV too.

use crate::speech::audio::Resampler;

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// 16-bit integers, the lower byte first.
    Linear16,
    /// Eight bits on a logarithmic scale (ITU-T G.711, North America and Japan).
    MuLaw,
    /// Eight bits on a logarithmic scale (ITU-T G.711, elsewhere).
    ALaw,
}

/// A form of sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SoundFormat {
    pub(crate) encoding: Encoding,
    /// Whether a header says what it is: a WAV file. Bare samples without.
    pub(crate) wav: bool,
    /// Samples of a second.
    pub(crate) rate: u32,
}

impl Encoding {
    fn bytes(self) -> u32 {
        if self == Encoding::Linear16 { 2 } else { 1 }
    }

    /// The number that WAV files have for it.
    fn tag(self) -> u16 {
        match self {
            Encoding::Linear16 => 1,
            Encoding::ALaw => 6,
            Encoding::MuLaw => 7,
        }
    }
}

impl SoundFormat {
    /// The media type.
    pub(crate) fn content_type(self) -> String {
        let rate = self.rate;
        match (self.wav, self.encoding) {
            (true, _) => "audio/wav".to_owned(),
            (false, Encoding::Linear16) => format!("audio/pcm;rate={rate};bits=16;channels=1;endianness=little"),
            (false, Encoding::MuLaw) => format!("audio/PCMU;rate={rate};channels=1"),
            (false, Encoding::ALaw) => format!("audio/PCMA;rate={rate};channels=1"),
        }
    }

    /// What stands before the samples. `bytes` of them follow; where that is not known yet, the header says as many as it
    /// can, which players take for "until the end".
    pub(crate) fn header(self, bytes: Option<usize>) -> Vec<u8> {
        if !self.wav {
            return Vec::new();
        }
        let bytes = bytes.and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes < u32::MAX - 64);
        // A format other than plain integers says how long its own additions are: not at all.
        let addition: &[u8] = if self.encoding == Encoding::Linear16 { &[] } else { &[0, 0] };
        let format = 16 + addition.len() as u32;
        let (width, rate) = (self.encoding.bytes(), self.rate);
        let mut header = Vec::with_capacity(48);
        header.extend(b"RIFF");
        header.extend(bytes.map_or(u32::MAX, |bytes| 4 + 8 + format + 8 + bytes + bytes % 2).to_le_bytes());
        header.extend(b"WAVEfmt ");
        header.extend(format.to_le_bytes());
        header.extend(self.encoding.tag().to_le_bytes());
        header.extend(1_u16.to_le_bytes());
        header.extend(rate.to_le_bytes());
        header.extend((rate * width).to_le_bytes());
        header.extend((width as u16).to_le_bytes());
        header.extend((8 * width as u16).to_le_bytes());
        header.extend(addition);
        header.extend(b"data");
        header.extend(bytes.unwrap_or(u32::MAX).to_le_bytes());
        header
    }
}

/// Writes samples of one rate in a format, which may have another.
pub(crate) struct SoundWriter {
    format: SoundFormat,
    resampler: Option<Resampler>,
}

impl SoundWriter {
    /// From `rate` samples a second.
    ///
    /// # Errors
    /// Which rates are not possible.
    pub(crate) fn new(rate: u32, format: SoundFormat) -> Result<SoundWriter, String> {
        let other = rate != format.rate;
        let resampler = other.then(|| Resampler::between(rate as usize, format.rate as usize)).transpose()?;
        Ok(SoundWriter { format, resampler })
    }

    /// The bytes of `samples`, or of as many of them as can be known by now.
    pub(crate) fn write(&mut self, samples: &[f32]) -> Result<Vec<u8>, String> {
        let Some(resampler) = &mut self.resampler else { return Ok(encode(samples, self.format.encoding)) };
        let mut out = Vec::new();
        resampler.push(samples, &mut out)?;
        Ok(encode(&out, self.format.encoding))
    }

    /// The rest.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        if let Some(resampler) = &mut self.resampler {
            resampler.finish(&mut out)?;
        }
        Ok(encode(&out, self.format.encoding))
    }
}

fn encode(samples: &[f32], encoding: Encoding) -> Vec<u8> {
    let integers = samples.iter().map(|sample| (sample.clamp(-1.0, 1.0) * 32767.0).round() as i16);
    match encoding {
        Encoding::Linear16 => integers.flat_map(i16::to_le_bytes).collect(),
        Encoding::MuLaw => integers.map(mu_law).collect(),
        Encoding::ALaw => integers.map(a_law).collect(),
    }
}

/// G.711 with µ = 255: sign, three bits of exponent and four of mantissa, inverted.
fn mu_law(sample: i16) -> u8 {
    const BIAS: u32 = 0x84;
    const MOST: u32 = 32_635;
    let sign = if sample < 0 { 0x80 } else { 0 };
    // Negative numbers count from -1.
    let magnitude = u32::from((if sample < 0 { !sample } else { sample }).unsigned_abs()).min(MOST) + BIAS;
    // The highest bit is one of 7 to 14.
    let exponent = 24 - magnitude.leading_zeros();
    let mantissa = magnitude >> (exponent + 3) & 0x0f;
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

/// G.711 with A = 87.6: as above, but linear near 0 and with every second bit inverted.
fn a_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    // Thirteen bits, the sign being one.
    let magnitude = u32::from((if sample < 0 { !sample } else { sample }).unsigned_abs()) >> 3;
    let code = match 31_u32.saturating_sub(magnitude.leading_zeros()).saturating_sub(4) {
        0 => magnitude >> 1,
        exponent => exponent << 4 | magnitude >> exponent & 0x0f,
    };
    (sign | code as u8) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAV: SoundFormat = SoundFormat { encoding: Encoding::Linear16, wav: true, rate: 16_000 };

    #[test]
    fn a_header_is_what_players_read() {
        let header = WAV.header(Some(6));
        assert_eq!(header.len(), 44);
        assert_eq!(header[4..8], 42_u32.to_le_bytes());
        assert_eq!(header[20..36], [1, 0, 1, 0, 0x80, 0x3e, 0, 0, 0, 0x7d, 0, 0, 2, 0, 16, 0]);
        assert_eq!(WAV.header(None)[40..], [0xff; 4]);
        let header = SoundFormat { encoding: Encoding::MuLaw, ..WAV }.header(Some(3));
        assert_eq!((header.len(), &header[4..8], header[20]), (46, &42_u32.to_le_bytes()[..], 7));
    }

    #[test]
    fn logarithmic_samples_are_those_of_the_tables() {
        // ITU-T G.191's reference values.
        for (sample, mu, a) in [
            (0, 0xff, 0xd5),
            (-1, 0x7f, 0x55),
            (8, 0xfe, 0xd5),
            (1000, 0xce, 0xfa),
            (-1000, 0x4e, 0x7a),
            (32_767, 0x80, 0xaa),
            (-32_768, 0x00, 0x2a),
        ] {
            assert_eq!((mu_law(sample), a_law(sample)), (mu, a), "{sample}");
        }
    }

    #[test]
    fn samples_beyond_bounds_stay_at_them() {
        assert_eq!(encode(&[2.0, -2.0, f32::NAN], Encoding::Linear16), [0xff, 0x7f, 0x01, 0x80, 0, 0]);
    }

    #[test]
    fn another_rate_gives_as_long_a_sound() {
        let tone: Vec<f32> = (0..16_000).map(|at| (at as f32 * 0.05).sin()).collect();
        for rate in [8_000, 22_050, 48_000] {
            let mut writer = SoundWriter::new(16_000, SoundFormat { rate, ..WAV }).unwrap();
            let mut bytes = writer.write(&tone[..5000]).unwrap();
            bytes.extend(writer.write(&tone[5000..]).unwrap());
            bytes.extend(writer.finish().unwrap());
            assert_eq!(bytes.len(), 2 * rate as usize);
        }
    }
}
