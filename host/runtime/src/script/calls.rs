//! What a script has under way with the host, and how it ends.
//!
//! The engine lets go of a call or a body when its collector comes by, which may be long after the program has cancelled
//! it and after its request has ended; until then a model would go on generating. So everything that may take long has a
//! name here. It ends when the script says so, and at the latest with the request, as upstream, where nothing that one
//! request started can be used by another.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// The header in which the script's runtime numbers its calls.
const NUMBER: &str = "x-host-call";

/// What is under way.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<Live>>);

#[derive(Default)]
struct Live {
    unnumbered: u64,
    calls: HashMap<Name, Arc<Switch>>,
}

/// What a script may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// A call, by the number that the script gave it.
    Call(u32),
    /// A body that the host held and the script reads, by the host's number.
    Held(u32),
    /// What has no number ends with the request.
    Unnumbered(u64),
}

/// Ends one thing, from anywhere.
#[derive(Default)]
struct Switch {
    off: AtomicBool,
    waiting: AtomicWaker,
    /// The body that is being read. It lies here because a reader that has lost interest never comes to drop it.
    body: Mutex<Option<WasiBody>>,
}

impl Switch {
    fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
        let body = self.body().take();
        drop(body);
        self.waiting.wake();
    }

    fn body(&self) -> MutexGuard<'_, Option<WasiBody>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_off(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.off.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the call that a request is, and takes its number from the headers.
    pub(crate) fn begin(&self, headers: &mut http::HeaderMap) -> Call {
        let number = headers.remove(NUMBER).and_then(|number| number.to_str().ok()?.parse().ok());
        match number {
            Some(number) => self.named(Name::Call(number)),
            None => self.unnumbered(),
        }
    }

    /// Begins what has no number.
    pub(super) fn unnumbered(&self) -> Call {
        let name = {
            let mut live = self.lock();
            live.unnumbered += 1;
            Name::Unnumbered(live.unnumbered)
        };
        self.named(name)
    }

    /// Begins something. What has had the name ends.
    pub(super) fn named(&self, name: Name) -> Call {
        let switch = Arc::<Switch>::default();
        let earlier = self.lock().calls.insert(name, switch.clone());
        if let Some(earlier) = earlier {
            earlier.turn_off();
        }
        Call { calls: self.clone(), name, switch }
    }

    /// Ends something, if it is under way.
    pub(super) fn cancel(&self, name: Name) {
        let found = self.lock().calls.remove(&name);
        if let Some(switch) = found {
            switch.turn_off();
        }
    }

    /// Ends everything.
    pub(super) fn clear(&self) {
        let calls = std::mem::take(&mut self.lock().calls);
        for switch in calls.into_values() {
            switch.turn_off();
        }
    }
}

/// Something under way. Dropping it forgets its name.
pub(crate) struct Call {
    calls: Calls,
    name: Name,
    switch: Arc<Switch>,
}

impl Call {
    /// What `work` gives, unless the call ends first; then `work` is dropped.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T> + Unpin) -> Result<T, HttpError> {
        let mut work = Some(work);
        std::future::poll_fn(|cx| {
            if self.switch.poll_off(cx).is_ready() {
                work = None;
            }
            match &mut work {
                None => Poll::Ready(Err(HttpError::ConnectionTerminated)),
                Some(work) => Pin::new(work).poll(cx).map(Ok),
            }
        })
        .await
    }

    /// A body that breaks off when the call ends.
    pub(crate) fn body(self, body: WasiBody) -> WasiBody {
        if body.is_end_stream() {
            return body;
        }
        *self.switch.body() = Some(body);
        if self.switch.off.load(Ordering::Acquire) {
            self.switch.turn_off();
        }
        CallBody(self).boxed_unsync()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut live = self.calls.lock();
        if live.calls.get(&self.name).is_some_and(|switch| Arc::ptr_eq(switch, &self.switch)) {
            live.calls.remove(&self.name);
        }
    }
}

struct CallBody(Call);

impl Body for CallBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let switch = &self.0.switch;
        if switch.poll_off(cx).is_ready() {
            return Poll::Ready(Some(Err(HttpError::ConnectionTerminated)));
        }
        match switch.body().as_mut() {
            None => Poll::Ready(Some(Err(HttpError::ConnectionTerminated))),
            Some(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.switch.body().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.switch.body().as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::Full;

    use super::*;

    fn full() -> WasiBody {
        Full::new(Bytes::from_static(b"x")).map_err(|never| match never {}).boxed_unsync()
    }

    #[tokio::test]
    async fn a_call_gives_what_its_work_gives() {
        let calls = Calls::default();
        let call = calls.named(Name::Call(1));
        assert_eq!(call.run(std::future::ready(7)).await.unwrap(), 7);
        assert_eq!(call.body(full()).collect().await.unwrap().to_bytes(), "x");
        assert!(calls.lock().calls.is_empty(), "what has ended is forgotten");
    }

    #[tokio::test]
    async fn what_is_cancelled_drops_its_work_and_wakes_who_waits() {
        let calls = Calls::default();
        let (sender, work) = tokio::sync::oneshot::channel::<()>();
        let call = calls.named(Name::Call(1));
        let waiting = tokio::spawn(async move { call.run(work).await.is_err() });
        tokio::task::yield_now().await;
        calls.cancel(Name::Call(2));
        assert!(!sender.is_closed());
        calls.cancel(Name::Call(1));
        assert!(waiting.await.unwrap());
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn everything_ends_with_the_request() {
        let calls = Calls::default();
        let mut headers = http::HeaderMap::new();
        headers.insert(NUMBER, 5.into());
        let bodies = [calls.begin(&mut headers), calls.begin(&mut headers), calls.named(Name::Held(5))];
        assert!(headers.is_empty(), "the number is the host's business");
        let (sender, source) = super::super::pipe::pipe();
        sender.write(Bytes::from_static(b"x"));
        let mut bodies = bodies.map(|call| call.body(full()));
        let unread = calls.unnumbered().body(source.boxed_unsync());
        calls.clear();
        assert_eq!(sender.write(Bytes::from_static(b"y")), super::super::pipe::Flow::Closed, "nobody reads any more");
        drop(unread);
        for body in &mut bodies {
            assert!(body.frame().await.unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn a_number_that_is_used_again_ends_the_earlier_call_alone() {
        let calls = Calls::default();
        let mut first = calls.named(Name::Call(1)).body(full());
        let mut second = calls.named(Name::Call(1)).body(full());
        assert!(first.frame().await.unwrap().is_err());
        drop(first);
        assert_eq!(calls.lock().calls.len(), 1);
        assert!(second.frame().now_or_never().unwrap().unwrap().is_ok());
    }
}
