//! Tensors out of a safetensors file, as float32.
//!
//! A tensor is read only when the header gives it the very shape that the configuration demands, so what is allocated
//! is bounded by the size of the file, whatever either of them claims. The file is read, not mapped: another program
//! that shortens a mapped file would bring this one down.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;

use crate::store::check_safetensors;

/// An open file of weights.
pub(super) struct Tensors {
    file: File,
    header: safetensors::tensor::Metadata,
    data_start: u64,
    prefix: &'static str,
}

impl Tensors {
    pub(super) fn open(path: &Path) -> Result<Tensors, String> {
        let header = check_safetensors(path)?;
        let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
        // Checkpoints with a task's head on top keep the encoder under a name of its own.
        let prefix = ["", "bert."]
            .into_iter()
            .find(|prefix| header.metadata.info(&format!("{prefix}embeddings.word_embeddings.weight")).is_some())
            .ok_or("it has no tensor embeddings.word_embeddings.weight; is it a BERT encoder?")?;
        Ok(Tensors { file, header: header.metadata, data_start: header.data_start, prefix })
    }

    /// The tensor `name`, which must have `shape`, in row-major order.
    pub(super) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let name = format!("{}{name}", self.prefix);
        let info = self.header.info(&name).ok_or_else(|| format!("it has no tensor {name}"))?;
        if info.shape != shape {
            return Err(format!("tensor {name} has the shape {:?}, config.json says {shape:?}", info.shape));
        }
        let (start, end) = info.data_offsets;
        let dtype = info.dtype;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| format!("tensor {name} cannot be read: {error}"))?;
        let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match dtype {
            Dtype::F32 => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            Dtype::F16 => Ok(pairs().map(half_to_f32).collect()),
            Dtype::BF16 => Ok(pairs().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()),
            other => Err(format!("tensor {name} holds {other:?}; F32, F16 and BF16 are known")),
        }
    }
}

/// IEEE 754 binary16 to binary32, exact.
fn half_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let fraction = u32::from(half) & 0x3ff;
    match exponent {
        // Subnormal: the fraction counts units of 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * 2.0_f32.powi(-24)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        let cases: [(u16, f32); 7] = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x3555, 0.333_251_95),
        ];
        for (half, value) in cases {
            assert_eq!(half_to_f32(half), value, "{half:#06x}");
        }
        assert_eq!(half_to_f32(0x7c00), f32::INFINITY);
        assert!(half_to_f32(0x7e00).is_nan());
    }
}
