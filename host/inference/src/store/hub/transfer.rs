//! One large file over several connections.
//!
//! The file is cut into parts, which connections take one after the other. What has come of each part stands in a list
//! beside the file (`….ranges`), written after the bytes that it speaks of, so that a later attempt goes on where each
//! part stopped. The first answer tells what the server can: one that knows no ranges sends the whole file, which is
//! taken as it comes. An answer that speaks of another length, another place or another content than the first one did is
//! a fault; a server that asks for patience gets it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::Body;
use ureq::http::Response;

use super::{ATTEMPTS, Hub, Received, fault, text};
use crate::store::{Progress, StoreError, read_text};

/// A list of parts has some 20 bytes for each.
const LIST_BYTES: u64 = 1 << 20;
const MAX_PARTS: u64 = 4096;
/// After so many bytes of a part the list is written anew.
const NOTED: u64 = 8 << 20;
/// Nobody waits longer than this for a server.
const LONGEST_WAIT: u64 = 120;

/// What the connections share.
struct Transfer<'h> {
    hub: &'h Hub,
    url: &'h str,
    size: u64,
    target: &'h Path,
    state: Mutex<State>,
    /// Set when one of them failed.
    over: AtomicBool,
}

struct State {
    list: List,
    /// The parts that no connection has taken.
    waiting: Vec<usize>,
    /// What the first answer called the content.
    etag: Option<String>,
}

/// `….ranges`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct List {
    size: u64,
    part: u64,
    /// Bytes of each part that lie in the file.
    done: Vec<u64>,
}

/// How an attempt ended that did not bring the file.
pub(super) enum Failed {
    /// The content changed on the way: what came is of no use.
    Changed,
    /// There was no answer; another attempt may bring one.
    Lost(StoreError),
    Error(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Error(error)
    }
}

impl List {
    fn new(size: u64, part: u64) -> List {
        let part = part.max(size / MAX_PARTS + 1);
        List { size, part, done: vec![0; usize::try_from(size.div_ceil(part)).unwrap_or(0)] }
    }

    /// What an earlier attempt left, if that is of this file.
    fn read(path: &Path, target: &Path, size: u64) -> Option<List> {
        let list: List = serde_json::from_slice(&read_text(path, LIST_BYTES).ok()?).ok()?;
        let length = fs::metadata(target).ok()?.len();
        let sound = list.size == size && list.part > 0 && list.done.len() as u64 == size.div_ceil(list.part);
        let inside = |(at, done): (usize, &u64)| {
            let (start, end) = list.range(at);
            *done <= end - start && (*done == 0 || start + done <= length)
        };
        (sound && list.done.iter().enumerate().all(inside)).then_some(list)
    }

    /// Where a part begins and ends in the file.
    fn range(&self, at: usize) -> (u64, u64) {
        let start = (at as u64).saturating_mul(self.part).min(self.size);
        (start, start.saturating_add(self.part).min(self.size))
    }

    /// With the first `have` bytes there, as one connection leaves them.
    fn begun(mut self, have: u64) -> List {
        let have = if have > self.size { 0 } else { have };
        let ranges: Vec<_> = (0..self.done.len()).map(|at| self.range(at)).collect();
        self.done = ranges.into_iter().map(|(start, end)| have.clamp(start, end) - start).collect();
        self
    }

    fn total(&self) -> u64 {
        self.done.iter().sum()
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(new, path)
    }
}

/// The list beside a file that is on its way.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".ranges");
    name.into()
}

/// Deletes a file that is on its way, and its list.
pub(super) fn forget(target: &Path) {
    for path in [target.to_path_buf(), beside(target)] {
        let _ = fs::remove_file(path);
    }
}

/// Deletes a file on its way that was fetched in parts, which has gaps that its length does not tell of.
pub(super) fn forget_gaps(target: &Path) {
    if beside(target).exists() {
        forget(target);
    }
}

/// Fetches what is missing of a file of `size` bytes. False when the server knows no ranges; nothing of the file is there
/// then.
pub(super) fn fetch(
    hub: &Hub,
    url: &str,
    size: u64,
    target: &Path,
    progress: &mut dyn Progress,
) -> Result<bool, Failed> {
    let list = beside(target);
    let known = match List::read(&list, target, size) {
        Some(known) => known,
        None => {
            forget_gaps(target);
            let open = File::options().create(true).truncate(false).write(true).open(target);
            let have = open.and_then(|file| file.metadata()).map_err(StoreError::io("cannot create", target))?.len();
            List::new(size, hub.endpoint.part.get()).begun(have)
        }
    };
    // Before the first byte: from here on the file may have gaps.
    known.write(&list).map_err(StoreError::io("cannot write", &list))?;
    progress.advance(known.total());
    let missing = |at: &usize| {
        let (start, end) = known.range(*at);
        known.done[*at] < end - start
    };
    let mut waiting: Vec<usize> = (0..known.done.len()).filter(missing).rev().collect();
    let Some(first) = waiting.pop() else {
        let _ = fs::remove_file(list);
        return Ok(true);
    };
    let connections = hub.endpoint.connections.get().min(waiting.len() + 1);
    let state = Mutex::new(State { list: known, waiting, etag: None });
    let transfer = Transfer { hub, url, size, target, state, over: AtomicBool::new(false) };
    // The first answer decides whether the others are asked for.
    let Some(answer) = transfer.ask(first)? else {
        forget(target);
        return Ok(false);
    };
    transfer.run(first, answer, connections, progress)?;
    fs::remove_file(&list)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .map_err(StoreError::io("cannot remove", &list))?;
    Ok(true)
}

impl Transfer<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        first: usize,
        answer: Response<Body>,
        connections: usize,
        progress: &mut dyn Progress,
    ) -> Result<(), Failed> {
        let (told, counts) = sync_channel(64);
        let mut begun = Some((first, answer));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..connections)
                .map(|_| {
                    let (told, begun) = (told.clone(), begun.take());
                    scope.spawn(move || {
                        let worked = self.work(begun, &told);
                        if worked.is_err() {
                            self.over.store(true, Ordering::Relaxed);
                        }
                        worked
                    })
                })
                .collect();
            drop(told);
            for bytes in counts {
                progress.advance(bytes);
            }
            let mut result = Ok(());
            for worker in workers {
                let lost = || Err(Failed::Error(fault(self.url, "a connection's thread ended")));
                let worked = worker.join().unwrap_or_else(|_| lost());
                // That the content changed explains what else went wrong.
                if matches!(result, Ok(())) || matches!(worked, Err(Failed::Changed)) {
                    result = worked;
                }
            }
            let noted: Result<(), Failed> =
                self.note().map_err(|error| StoreError::io("cannot write", &beside(self.target))(error).into());
            result.and(noted)
        })
    }

    fn note(&self) -> io::Result<()> {
        self.state().list.write(&beside(self.target))
    }

    /// One connection: fetches parts until there are none.
    fn work(&self, mut begun: Option<(usize, Response<Body>)>, told: &SyncSender<u64>) -> Result<(), Failed> {
        let opened = File::options().write(true).open(self.target);
        let mut file = opened.map_err(StoreError::io("cannot write", self.target))?;
        loop {
            let (at, answer) = match begun.take() {
                Some((at, answer)) => (at, Some(answer)),
                None => match self.state().waiting.pop() {
                    Some(at) => (at, None),
                    None => return Ok(()),
                },
            };
            self.part(at, answer, &mut file, told)?;
        }
    }

    /// Fetches what is missing of a part, in as many attempts as bring it forward.
    fn part(
        &self,
        at: usize,
        mut answer: Option<Response<Body>>,
        file: &mut File,
        told: &SyncSender<u64>,
    ) -> Result<(), Failed> {
        let mut last = fault(self.url, "it never sent the whole part");
        let mut fruitless = 0;
        while fruitless < ATTEMPTS {
            let (start, end) = self.state().list.range(at);
            let before = self.state().list.done[at];
            if before == end - start {
                return Ok(());
            }
            if self.over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let response = match answer.take() {
                Some(response) => response,
                None => match self.ask(at) {
                    Ok(Some(response)) => response,
                    Ok(None) => return Err(fault(self.url, "it sent ranges and then the whole file").into()),
                    Err(Failed::Lost(error)) => {
                        (last, fruitless) = (error, fruitless + 1);
                        continue;
                    }
                    Err(failed) => return Err(failed),
                },
            };
            match self.receive(at, response, file, told) {
                Ok(()) => {}
                Err(Received::Written(error)) => return Err(StoreError::io("cannot write", self.target)(error).into()),
                Err(Received::Lost(error)) => last = fault(self.url, error),
            }
            fruitless = if self.state().list.done[at] > before { 0 } else { fruitless + 1 };
        }
        Err(last.into())
    }

    /// Asks for the rest of a part. None when the whole file came instead.
    fn ask(&self, at: usize) -> Result<Option<Response<Body>>, Failed> {
        let (begin, end) = {
            let state = self.state();
            let (start, end) = state.list.range(at);
            (start + state.list.done[at], end)
        };
        let range = format!("bytes={begin}-{}", end - 1);
        let send = || self.hub.authorized(self.hub.agent.get(self.url), self.url).header("range", &range).call();
        let response = self.hub.patiently(self.url, send).map_err(Failed::Lost)?;
        match response.status().as_u16() {
            206 => {}
            200 => return Ok(None),
            _ => return Err(self.hub.refused(self.url, &response).into()),
        }
        let headers = response.headers();
        let told = text(headers, "content-range").unwrap_or_default();
        let rest = told.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
        let (sent, total) = rest.ok_or_else(|| fault(self.url, format!("it sent the range {told:.80?}")))?;
        if total.parse::<u64>().is_ok_and(|total| total != self.size) {
            let why = format!("it said that the file has {} bytes, and now that it has {total:.40}", self.size);
            return Err(fault(self.url, why).into());
        }
        if !sent.starts_with(&format!("{begin}-")) {
            return Err(fault(self.url, format!("asked for {range}, it sent {sent:.40}")).into());
        }
        if let Some(etag) = text(headers, "etag").map(str::to_owned) {
            let mut state = self.state();
            if state.etag.as_ref().is_some_and(|known| *known != etag) {
                return Err(Failed::Changed);
            }
            state.etag = Some(etag);
        }
        Ok(Some(response))
    }

    fn receive(
        &self,
        at: usize,
        response: Response<Body>,
        file: &mut File,
        told: &SyncSender<u64>,
    ) -> Result<(), Received> {
        let (mut place, end) = {
            let state = self.state();
            let (start, end) = state.list.range(at);
            (start + state.list.done[at], end)
        };
        file.seek(SeekFrom::Start(place)).map_err(Received::Written)?;
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader().take(end - place);
        let mut buffer = vec![0; 1 << 16];
        let mut unnoted = 0;
        let ended = loop {
            if self.over.load(Ordering::Relaxed) {
                break Ok(());
            }
            match body.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    file.write_all(&buffer[..count]).map_err(Received::Written)?;
                    let count = count as u64;
                    (place, unnoted) = (place + count, unnoted + count);
                    self.state().list.done[at] += count;
                    let _ = told.send(count);
                    if unnoted >= NOTED && place < end {
                        self.note().map_err(Received::Written)?;
                        unnoted = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(Received::Lost(error)),
            }
        };
        self.note().map_err(Received::Written)?;
        ended
    }
}

impl Hub {
    /// Sends a request, again after a while where the server asks for that (429 and 503, `Retry-After` in seconds).
    pub(super) fn patiently(
        &self,
        url: &str,
        mut send: impl FnMut() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, StoreError> {
        let mut wait = 1;
        for attempt in 1.. {
            let response = send().map_err(|error| fault(url, error))?;
            let busy = matches!(response.status().as_u16(), 429 | 503);
            if !busy || attempt == ATTEMPTS {
                return Ok(response);
            }
            let asked = text(response.headers(), "retry-after").and_then(|seconds| seconds.trim().parse::<u64>().ok());
            let seconds = asked.unwrap_or(wait);
            if seconds > LONGEST_WAIT {
                return Err(fault(url, format!("the hub asks to wait {seconds} s; try again then, or set HF_TOKEN")));
            }
            for left in (1..=seconds).rev() {
                (self.waits)(left);
                std::thread::sleep(Duration::from_secs(1));
            }
            (self.waits)(0);
            wait *= 2;
        }
        Err(fault(url, "the hub has no time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file_and_no_more() {
        let list = List::new(25, 10);
        let ranges: Vec<_> = (0..list.done.len()).map(|at| list.range(at)).collect();
        assert_eq!(ranges, [(0, 10), (10, 20), (20, 25)]);
        assert!(List::new(u64::MAX, 1).done.len() as u64 <= MAX_PARTS);
        assert!(List::new(0, 10).done.is_empty());
        assert_eq!(List::new(25, 10).begun(13).done, [10, 3, 0]);
        assert_eq!(List::new(25, 10).begun(26).done, [0, 0, 0]);
    }

    #[test]
    fn a_list_that_speaks_of_bytes_that_are_not_there_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, path) = (folder.path().join("x.part"), folder.path().join("x.part.ranges"));
        fs::write(&target, [0; 15]).unwrap();
        let read = |list: &List| {
            list.write(&path).unwrap();
            List::read(&path, &target, 25)
        };
        let sound = List { done: vec![10, 5, 0], ..List::new(25, 10) };
        assert_eq!(read(&sound), Some(sound.clone()));
        for done in [vec![10, 6, 0], vec![11, 0, 0], vec![10, 5], vec![10, 5, 0, 0], vec![u64::MAX, 0, 0]] {
            assert_eq!(read(&List { done, ..sound.clone() }), None);
        }
        assert_eq!(read(&List { part: 0, ..sound.clone() }), None);
        assert_eq!(read(&List { size: 24, ..sound.clone() }), None);
        fs::write(&path, "{").unwrap();
        assert_eq!(List::read(&path, &target, 25), None);
    }
}
