//! One process at a time. The system drops a lock when its holder dies, however it dies.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Takes the lock of a file, which is made if need be. `wait` is called before another process is waited for.
pub(crate) fn take(path: &Path, wait: impl FnOnce()) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => wait(),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.lock()?;
    Ok(file)
}
