//! `workers:bindings@0.2.0`: a call is a resource that the guest polls.

use host_runtime::State;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynPollable, subscribe};

use super::{CallError, admit};
use crate::pending::Pending;
use crate::{Bindings, Store};

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "package host:bindings; world calls { import workers:bindings/calls@0.2.0; }",
        imports: { "workers:bindings/calls.call": async | trappable, default: trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "workers:bindings/calls.pending": super::PendingCall,
        },
    });
}

use generated::workers::bindings0_2_0::calls as wit;

pub(super) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, Store>(linker, |state| state)
}

type Answer = Result<String, CallError>;

#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub type PendingCall = Pending<Answer>;

fn lower(answer: Answer) -> Result<String, wit::Error> {
    answer.map_err(|CallError { code, status, message }| wit::Error { code, status, message })
}

impl wit::Host for State<Bindings> {
    fn check(&mut self, binding: String, kind: String) -> wasmtime::Result<Result<(), String>> {
        Ok(self.extension().grants().check_callable(&binding, &kind))
    }

    fn start(&mut self, binding: String, method: String, arguments: String) -> wasmtime::Result<Resource<PendingCall>> {
        let pending = match admit(self, &binding, method, arguments) {
            Ok(admitted) => Pending::running(admitted.run()),
            Err(error) => Pending::answered(Err(error)),
        };
        Ok(self.table().push(pending)?)
    }

    async fn call(
        &mut self,
        binding: String,
        method: String,
        arguments: String,
    ) -> wasmtime::Result<Result<String, wit::Error>> {
        let answer = match admit(self, &binding, method, arguments) {
            Ok(admitted) => admitted.run().await,
            Err(error) => Err(error),
        };
        Ok(lower(answer))
    }
}

impl wit::HostPending for State<Bindings> {
    fn subscribe(&mut self, pending: Resource<PendingCall>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table(), pending)
    }

    fn get(
        &mut self,
        pending: Resource<PendingCall>,
    ) -> wasmtime::Result<Option<Result<Result<String, wit::Error>, ()>>> {
        let taken = self.table().get_mut(&pending)?.take();
        Ok(match taken {
            None => None,
            Some(Err(())) => Some(Err(())),
            Some(Ok(answer)) => Some(Ok(lower(answer))),
        })
    }

    fn drop(&mut self, pending: Resource<PendingCall>) -> wasmtime::Result<()> {
        self.table().delete(pending)?;
        Ok(())
    }
}
