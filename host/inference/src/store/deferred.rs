//! Tensors that are made while they are written.
//!
//! A conversion reads a mapped file and writes another: held as a whole, a large model would take its size in memory
//! twice. So what is gathered here is names, shapes and how to make the bytes; one tensor's bytes exist at a time.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::f16;
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensorError};

/// Makes a tensor's bytes, as many as its shape says.
type Make<'a> = Box<dyn Fn() -> Cow<'a, [u8]> + 'a>;

/// A tensor in row-major order, little-endian.
pub(super) struct Deferred<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    make: Make<'a>,
}

impl<'a> Deferred<'a> {
    /// A tensor of `shape`; none where that has more bytes than can be counted. `make` must give values that were there
    /// when this was called: it cannot fail any more.
    pub(super) fn new(dtype: Dtype, shape: &[usize], make: impl Fn() -> Cow<'a, [u8]> + 'a) -> Option<Deferred<'a>> {
        let bytes = elements(shape)?.checked_mul(dtype.bitsize() / 8)?;
        Some(Deferred { dtype, shape: shape.to_vec(), bytes, make: Box::new(make) })
    }

    /// Its shape, slowest dimension first.
    pub(super) fn dims(&self) -> &[usize] {
        &self.shape
    }

    /// Takes `shape` where that differs only in sides of one. Says whether it did.
    pub(super) fn settle(&mut self, shape: &[usize]) -> bool {
        let wide = |shape: &[usize]| shape.iter().copied().filter(|side| *side != 1).collect::<Vec<_>>();
        let same = wide(&self.shape) == wide(shape);
        if same {
            self.shape = shape.to_vec();
        }
        same
    }
}

impl View for Deferred<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.make)()
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

/// How many values a tensor of `shape` has, where they can be counted.
pub(super) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side))
}

/// Values in half precision.
pub(super) fn halves(values: impl Iterator<Item = f32>) -> Cow<'static, [u8]> {
    Cow::Owned(values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect())
}

/// Writes a safetensors file.
///
/// # Errors
/// What the system said, and names that are no names.
pub(super) fn write(path: &Path, tensors: BTreeMap<String, Deferred<'_>>) -> Result<(), SafeTensorError> {
    // What the reference tools write, so that sums can be compared with theirs.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let values = [1.0_f32, -2.5, 3.0];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut column = Deferred::new(Dtype::F16, &[3, 1], || halves(values.into_iter())).unwrap();
        assert!(!column.settle(&[4]) && column.settle(&[3]));
        let whole = Deferred::new(Dtype::F32, &[1, 3], || Cow::Borrowed(&bytes)).unwrap();
        write(&path, BTreeMap::from([("column".to_owned(), column), ("whole".to_owned(), whole)])).unwrap();
        let header = crate::store::check_safetensors(&path).unwrap();
        assert_eq!(header.metadata.info("column").unwrap().shape, [3]);
        let file = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("whole").unwrap().data(), bytes);
        assert_eq!(read.tensor("column").unwrap().data(), &*halves(values.into_iter()));
    }

    #[test]
    fn what_cannot_be_counted_is_no_tensor() {
        assert!(Deferred::new(Dtype::F32, &[usize::MAX, 2], || Cow::Borrowed(&[])).is_none());
        assert!(Deferred::new(Dtype::F32, &[usize::MAX / 2], || Cow::Borrowed(&[])).is_none());
    }
}
