//! Keys, where a person sits at a terminal.
//!
//! The terminal hands over each key at once and shows none, and is otherwise left as it is: Ctrl-C still sends its
//! signal, and lines still begin at the left. It is put back on every way out ([`restore`]). Where the host runs in the
//! background the terminal is somebody else's, and nothing of this happens.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

pub(crate) use terminal::restore;
use terminal::{enter, follow};

/// What the keys do, in a line.
pub(crate) const HELP: &str = "keys: b open a browser, r rebuild, c clear, h help, x exit";

/// Keys that wait to be looked at; more are dropped.
const WAITING: usize = 16;

/// Whether keys are listened to.
static LISTENING: AtomicBool = AtomicBool::new(false);

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Open a browser.
    Browser,
    /// Build again.
    Rebuild,
    /// Clear the screen.
    Clear,
    /// Say what the keys are.
    Help,
    /// End.
    Exit,
}

impl Key {
    fn of(byte: u8) -> Option<Self> {
        /// What Ctrl-C is where the terminal makes no signal of it.
        const CTRL_C: u8 = 3;
        match byte.to_ascii_lowercase() {
            b'b' => Some(Self::Browser),
            b'r' => Some(Self::Rebuild),
            b'c' => Some(Self::Clear),
            b'h' | b'?' => Some(Self::Help),
            b'x' | b'q' | CTRL_C => Some(Self::Exit),
            _ => None,
        }
    }
}

/// The keys that are pressed.
pub(crate) struct Keys(Option<mpsc::Receiver<Key>>);

impl Keys {
    /// Listens to the terminal, if standard input is one. Must be called in an async runtime.
    pub(crate) fn open() -> Self {
        if !std::io::stdin().is_terminal() || !enter() {
            return Self(None);
        }
        LISTENING.store(true, Ordering::Relaxed);
        tokio::spawn(follow());
        let (sender, receiver) = mpsc::channel(WAITING);
        // Reading cannot be interrupted: the thread ends with the process.
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(std::io::stdin().read(&mut byte), Ok(1)) {
                if let Some(key) = Key::of(byte[0]) {
                    let _ = sender.try_send(key);
                }
            }
        });
        Self(Some(receiver))
    }

    /// The next key; never, where none are listened to.
    pub(crate) async fn next(&mut self) -> Key {
        if let Some(keys) = &mut self.0 {
            match keys.recv().await {
                Some(key) => return key,
                None => self.0 = None,
            }
        }
        std::future::pending().await
    }
}

/// Whether there are any keys.
pub(crate) fn listening() -> bool {
    LISTENING.load(Ordering::Relaxed)
}

/// Clears the screen and what has scrolled off it.
pub(crate) fn clear() {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        let _ = out.write_all(b"\x1b[2J\x1b[3J\x1b[H").and_then(|()| out.flush());
    }
}

/// Opens a browser.
pub(crate) fn browse(url: &str) -> std::io::Result<()> {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    let mut child =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[cfg(unix)]
mod terminal {
    use std::io::stdin;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
    use nix::unistd::{getpgrp, tcgetpgrp};
    use tokio::signal::unix::{SignalKind, signal};

    /// The terminal as it was found.
    static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

    fn before() -> MutexGuard<'static, Option<Termios>> {
        BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the terminal is this process's to set. Setting another's would stop the process.
    fn is_ours() -> bool {
        // No foreground: the terminal controls no session that this process is in, and stops nobody.
        tcgetpgrp(stdin()).map_or(true, |group| group == getpgrp())
    }

    /// Lets keys through one by one. Says whether it does.
    pub(crate) fn enter() -> bool {
        let Ok(found) = tcgetattr(stdin()) else { return false };
        if !is_ours() {
            return false;
        }
        let mut single = found.clone();
        single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        single.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        single.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        before().get_or_insert(found);
        tcsetattr(stdin(), SetArg::TCSANOW, &single).is_ok()
    }

    /// Leaves the terminal as it was found.
    pub(crate) fn restore() {
        if let Some(before) = before().take()
            && is_ours()
        {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
        }
    }

    /// Sets the terminal again whenever the process goes on after it was stopped: the shell has used it meanwhile.
    pub(crate) async fn follow() {
        let Ok(mut continued) = signal(SignalKind::from_raw(nix::libc::SIGCONT)) else { return };
        while continued.recv().await.is_some() {
            enter();
        }
    }
}

/// Elsewhere a key is a line of one letter.
#[cfg(not(unix))]
mod terminal {
    pub(crate) fn enter() -> bool {
        true
    }

    pub(crate) fn restore() {}

    pub(crate) async fn follow() {}
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn keys_are_the_documented_ones() {
        let keys = b"brch?xqXQ\x03".map(Key::of);
        use Key::{Browser, Clear, Exit, Help, Rebuild};
        let expected = [Browser, Rebuild, Clear, Help, Help, Exit, Exit, Exit, Exit, Exit].map(Some);
        assert_eq!(keys, expected);
        assert_eq!(Key::of(b'\n'), None);
    }
}
