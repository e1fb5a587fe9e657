//! Containers and codecs: from a file's bytes to one channel of samples at the file's own rate.

use std::io::{Cursor, ErrorKind};

use bytes::Bytes;
use opus_decoder::OpusDecoder;
use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use super::RATE;

/// Rates that sound is recorded with.
const RATES: std::ops::RangeInclusive<usize> = 1_000..=384_000;
/// 120 ms, the longest packet of Opus, at 16 kHz.
const OPUS_PACKET: usize = 1_920;
/// Opus counts at 48 kHz whatever it is decoded to.
const OPUS_RATIO: usize = 48_000 / RATE;

/// A file while it is read.
pub(super) struct Source {
    format: Box<dyn FormatReader>,
    track: u32,
    decoder: Decoder,
    rate: Option<usize>,
    interleaved: Vec<f32>,
    decoded: usize,
    broken: usize,
}

enum Decoder {
    Symphonia(Box<dyn AudioDecoder>),
    Opus { decoder: Box<OpusDecoder>, skip: usize, samples: Vec<f32> },
}

impl Source {
    pub(super) fn open(bytes: Bytes) -> Result<Source, String> {
        let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
        let format = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| match error {
                Error::IoError(_) | Error::Unsupported(_) => {
                    "it is neither WAV, AIFF, FLAC, MP3, Ogg, MP4 nor WebM, or it is cut off in its header".to_owned()
                }
                other => other.to_string(),
            })?;
        let track = format.default_track(TrackType::Audio).ok_or("it has no sound in it")?;
        let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio());
        let parameters = parameters.ok_or("it does not say how its sound is encoded")?;
        let decoder = if parameters.codec == CODEC_ID_OPUS {
            Decoder::opus(parameters)?
        } else {
            let options = AudioDecoderOptions::default();
            let decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &options);
            Decoder::Symphonia(decoder.map_err(|error| format!("its sound cannot be decoded: {error}"))?)
        };
        let track = track.id;
        Ok(Source { format, track, decoder, rate: None, interleaved: Vec::new(), decoded: 0, broken: 0 })
    }

    /// Appends the samples of the next packet, and says at which rate; none at the end. A file that breaks off is read
    /// up to there; one that gives nothing, or is mostly broken, is an error.
    pub(super) fn next(&mut self, mono: &mut Vec<f32>) -> Result<Option<usize>, String> {
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.end(),
                Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => return self.end(),
                Err(_) if self.decoded > 0 => return self.end(),
                Err(error) => return Err(error.to_string()),
            };
            if packet.track_id != self.track {
                continue;
            }
            match self.decoder.decode(&packet, &mut self.interleaved, mono) {
                Ok(rate) if self.rate.is_some_and(|known| known != rate) => {
                    return Err("its rate changes in the midst".to_owned());
                }
                Ok(rate) if !RATES.contains(&rate) => return Err(format!("it has {rate} samples a second")),
                Ok(rate) => {
                    self.rate = Some(rate);
                    self.decoded += 1;
                    return Ok(Some(rate));
                }
                Err(_) => self.broken += 1,
            }
        }
    }

    fn end(&self) -> Result<Option<usize>, String> {
        match (self.decoded, self.broken) {
            (0, 0) => Err("there is no sound in it".to_owned()),
            (decoded, broken) if broken > decoded => Err(format!("{broken} of its packets are broken")),
            _ => Ok(None),
        }
    }
}

impl Decoder {
    fn opus(parameters: &AudioCodecParameters) -> Result<Decoder, String> {
        // RFC 7845, 5.1: magic, version, channels, pre-skip.
        let head = parameters.extra_data.as_deref().filter(|head| head.starts_with(b"OpusHead"));
        let channels = head.and_then(|head| head.get(9)).copied();
        if channels.is_some_and(|channels| channels > 2) {
            return Err("it is Opus with more than two channels; mix them down first".to_owned());
        }
        let skip = head.and_then(|head| head.get(10..12)).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]));
        let decoder = OpusDecoder::new(RATE as u32, 1).map_err(|error| error.to_string())?;
        let samples = vec![0.0; OPUS_PACKET];
        Ok(Decoder::Opus { decoder: Box::new(decoder), skip: usize::from(skip) / OPUS_RATIO, samples })
    }

    fn decode(&mut self, packet: &Packet, interleaved: &mut Vec<f32>, mono: &mut Vec<f32>) -> Result<usize, String> {
        match self {
            Decoder::Symphonia(decoder) => {
                let buffer = decoder.decode(packet).map_err(|error| error.to_string())?;
                let channels = buffer.spec().channels().count();
                let rate = buffer.spec().rate() as usize;
                buffer.copy_to_vec_interleaved(interleaved);
                if channels > 0 {
                    let scale = 1.0 / channels as f32;
                    mono.extend(interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() * scale));
                }
                Ok(rate)
            }
            Decoder::Opus { decoder, skip, samples } => {
                if packet.data.is_empty() {
                    return Ok(RATE);
                }
                let count = decoder.decode_float(&packet.data, samples, false).map_err(|error| error.to_string())?;
                let trimmed = usize::try_from(packet.trim_end.get()).unwrap_or(usize::MAX) / OPUS_RATIO;
                let count = count.saturating_sub(trimmed);
                let skipped = count.min(*skip);
                *skip -= skipped;
                mono.extend_from_slice(&samples[skipped..count]);
                Ok(RATE)
            }
        }
    }
}
