//! sha256 sums, taken while bytes pass.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

const BUFFER: usize = 1 << 18;

/// The sum and the size of a file.
pub(super) fn file(path: &Path, advance: &mut dyn FnMut(u64)) -> io::Result<(String, u64)> {
    copy(&mut File::open(path)?, &mut io::sink(), advance)
}

/// Copies everything and gives the sum and the count of it.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write, advance: &mut dyn FnMut(u64)) -> io::Result<(String, u64)> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sum.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        total += count as u64;
        advance(count as u64);
    }
    Ok((hex(&sum.finalize()), total))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
