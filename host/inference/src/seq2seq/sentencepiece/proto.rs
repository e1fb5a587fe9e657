//! The file: a protocol-buffers message `ModelProto`, of which the pieces (1), the trainer's (2) and the normalizer's (3)
//! settings are read.

use super::normalize::Normalizer;
use super::{Algorithm, Kind, MAX_PIECE, MAX_PIECES, Piece};

pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) algorithm: Algorithm,
    pub(super) byte_fallback: bool,
    pub(super) normalizer: Normalizer,
}

enum Value<'a> {
    Number(u64),
    Fixed(u32),
    Bytes(&'a [u8]),
    Skipped,
}

/// Fields of a message, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("it ends inside a number")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has too many bytes".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len());
        let (taken, rest) = self.0.split_at(length.ok_or("it ends inside a field")?);
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Skipped)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
            }
            other => return Err(format!("a field has the wire type {other}; it is no SentencePiece model")),
        };
        Ok(Some((key >> 3, value)))
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Model, String> {
    let mut model = Model {
        pieces: Vec::new(),
        algorithm: Algorithm::Unigram,
        byte_fallback: false,
        normalizer: Normalizer::default(),
    };
    let mut fields = Fields(bytes);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(_)) if model.pieces.len() == MAX_PIECES => {
                return Err(format!("it has more than {MAX_PIECES} pieces"));
            }
            (1, Value::Bytes(message)) => {
                let number = model.pieces.len();
                model.pieces.push(piece(message).map_err(|why| format!("piece {number}: {why}"))?);
            }
            (2, Value::Bytes(message)) => trainer(message, &mut model)?,
            (3, Value::Bytes(message)) => model.normalizer = normalizer(message)?,
            _ => {}
        }
    }
    Ok(model)
}

fn piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| "it is no UTF-8")?;
                text.clone_into(&mut piece.text);
            }
            (2, Value::Fixed(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("there is no type {other}")),
                }
            }
            _ => {}
        }
    }
    if piece.text.is_empty() || piece.text.len() > MAX_PIECE {
        return Err(format!("it has {} bytes, not 1 to {MAX_PIECE}", piece.text.len()));
    }
    if !piece.score.is_finite() || piece.score.abs() > 1e9 {
        return Err(format!("its score is {}", piece.score));
    }
    Ok(piece)
}

fn trainer(message: &[u8], model: &mut Model) -> Result<(), String> {
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (3, Value::Number(1)) => model.algorithm = Algorithm::Unigram,
            (3, Value::Number(2)) => model.algorithm = Algorithm::Bpe,
            (3, Value::Number(_)) => return Err("it splits into words or characters; unigram and BPE are known".into()),
            (24, Value::Number(1)) => return Err("it puts spaces behind words, which is not supported".into()),
            (35, Value::Number(flag)) => model.byte_fallback = flag != 0,
            _ => {}
        }
    }
    Ok(())
}

fn normalizer(message: &[u8]) -> Result<Normalizer, String> {
    let mut normalizer = Normalizer::default();
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (2, Value::Bytes(map)) if !map.is_empty() => normalizer.set_map(map)?,
            (3, Value::Number(flag)) => normalizer.dummy_prefix = flag != 0,
            (4, Value::Number(flag)) => normalizer.collapse = flag != 0,
            (5, Value::Number(flag)) => normalizer.escape = flag != 0,
            _ => {}
        }
    }
    Ok(normalizer)
}
