//! Runs futures on WASI 0.2, where the only thing that waits is one blocking `poll` over every pollable at once.
//!
//! One request has one [`block_on`]: its handler and whatever was [`spawn`]ed take turns on the instance's single thread.
//! When none of them can go on, the pollables they wait for go to the host in one call, which returns when at least one
//! is ready. A future waits for a pollable through a [`Watch`].

use super::generated::wasi::io::poll::{Pollable, poll};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, Stream};
use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// After so many turns in which some future woke itself, the pollables are looked at all the same, so that a busy
/// future starves nobody.
const TURNS_BEFORE_LOOKING: u32 = 64;

struct Reactor {
    /// Slots keep their index while a future waits; a free slot is `None`.
    waits: Vec<Option<Wait>>,
    spawned: Vec<LocalBoxFuture<'static, ()>>,
}

struct Wait {
    pollable: Rc<Pollable>,
    waker: Waker,
    ready: bool,
}

thread_local! {
    static REACTOR: RefCell<Reactor> = const { RefCell::new(Reactor { waits: Vec::new(), spawned: Vec::new() }) };
}

/// Adds a future to those of the current request.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    REACTOR.with_borrow_mut(|reactor| reactor.spawned.push(Box::pin(future)));
}

/// Runs `main` and everything spawned meanwhile to the end.
///
/// # Panics
/// When every future waits for something that no pollable stands for, since nothing could ever wake them.
pub(super) fn block_on(main: impl Future<Output = ()>) {
    let mut main = pin!(main);
    let mut main_done = false;
    let mut spawned = FuturesUnordered::new();
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut turns = 0;
    loop {
        woken.0.store(false, Ordering::Relaxed);
        if !main_done {
            main_done = main.as_mut().poll(&mut cx).is_ready();
        }
        spawned.extend(REACTOR.with_borrow_mut(|reactor| std::mem::take(&mut reactor.spawned)));
        while let Poll::Ready(Some(())) = Pin::new(&mut spawned).poll_next(&mut cx) {}
        let more = REACTOR.with_borrow(|reactor| !reactor.spawned.is_empty());
        if main_done && spawned.is_empty() && !more {
            return;
        }
        if more || woken.0.load(Ordering::Relaxed) {
            turns += 1;
            if turns % TURNS_BEFORE_LOOKING == 0 {
                look();
            }
        } else {
            wait();
        }
    }
}

/// Blocks until a pollable is ready and wakes the futures behind those that are.
fn wait() {
    let (slots, pollables): (Vec<usize>, Vec<Rc<Pollable>>) = waiting().unzip();
    assert!(!pollables.is_empty(), "the handler waits for something that can never happen");
    let borrowed: Vec<&Pollable> = pollables.iter().map(Rc::as_ref).collect();
    for index in poll(&borrowed) {
        if let Some(&slot) = slots.get(index as usize) {
            wake(slot);
        }
    }
}

/// Wakes the futures behind the pollables that are ready, without blocking.
fn look() {
    for (slot, pollable) in waiting() {
        if pollable.ready() {
            wake(slot);
        }
    }
}

fn waiting() -> impl Iterator<Item = (usize, Rc<Pollable>)> {
    let all: Vec<_> = REACTOR.with_borrow(|reactor| {
        let waits = reactor.waits.iter().enumerate();
        waits
            .filter_map(|(slot, wait)| {
                wait.as_ref().filter(|wait| !wait.ready).map(|wait| (slot, Rc::clone(&wait.pollable)))
            })
            .collect()
    });
    all.into_iter()
}

fn wake(slot: usize) {
    let waker = REACTOR.with_borrow_mut(|reactor| {
        let wait = reactor.waits.get_mut(slot)?.as_mut()?;
        wait.ready = true;
        Some(wait.waker.clone())
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for one pollable, as often as needed.
///
/// A pollable must be gone before the resource it came from, so a struct that holds both declares its watch first.
pub(super) struct Watch {
    slot: Option<usize>,
    pollable: Rc<Pollable>,
}

impl Watch {
    pub(super) fn new(pollable: Pollable) -> Self {
        Self { slot: None, pollable: Rc::new(pollable) }
    }

    /// Ready once the pollable is; the next call waits anew.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        REACTOR.with_borrow_mut(|reactor| {
            if let Some(slot) = self.slot
                && let Some(entry) = reactor.waits.get_mut(slot)
                && let Some(wait) = entry
            {
                if wait.ready {
                    *entry = None;
                    self.slot = None;
                    return Poll::Ready(());
                }
                wait.waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            let wait = Wait { pollable: Rc::clone(&self.pollable), waker: cx.waker().clone(), ready: false };
            let free = reactor.waits.iter().position(Option::is_none);
            let slot = free.unwrap_or_else(|| {
                reactor.waits.push(None);
                reactor.waits.len() - 1
            });
            reactor.waits[slot] = Some(wait);
            self.slot = Some(slot);
            Poll::Pending
        })
    }

    pub(super) async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        // Taken out first and dropped after: dropping a waker may run code that comes back here.
        let wait = REACTOR.with_borrow_mut(|reactor| reactor.waits.get_mut(slot).and_then(Option::take));
        drop(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Pending so many times, waking itself each time.
    async fn turns(count: u32) {
        let mut left = count;
        std::future::poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn main_does_not_wait_for_what_it_spawned_but_all_of_it_runs_to_the_end() {
        let said = Rc::new(RefCell::new(Vec::new()));
        let say = |what: &'static str| {
            let said = Rc::clone(&said);
            move || said.borrow_mut().push(what)
        };
        let (main, child, grandchild) = (say("main"), say("child"), say("grandchild"));
        block_on(async move {
            spawn(async move {
                turns(3).await;
                child();
                spawn(async move {
                    turns(200).await;
                    grandchild();
                });
            });
            turns(1).await;
            main();
        });
        assert_eq!(*said.borrow(), ["main", "child", "grandchild"]);
    }

    #[test]
    fn many_futures_take_turns() {
        let done = Rc::new(Cell::new(0));
        let count = Rc::clone(&done);
        block_on(async move {
            for index in 0..100 {
                let count = Rc::clone(&count);
                spawn(async move {
                    turns(index).await;
                    count.set(count.get() + 1);
                });
            }
        });
        assert_eq!(done.get(), 100);
    }

    #[test]
    #[should_panic(expected = "can never happen")]
    fn a_future_that_nothing_can_wake_is_a_fault_and_not_a_hang() {
        block_on(std::future::pending());
    }
}
