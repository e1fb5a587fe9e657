//! `workers:bindings@0.3.0`: a call is an async function.

use host_runtime::State;
use wasmtime::component::{Accessor, Linker};

use super::{CallError, admit};
use crate::{Bindings, Store};

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "package host:bindings; world calls { import workers:bindings/calls@0.3.0; }",
        imports: { "workers:bindings/calls.call": store | async | trappable, default: trappable },
    });
}

use generated::workers::bindings0_3_0::calls as wit;

pub(super) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, Store>(linker, |state| state)
}

impl wit::Host for State<Bindings> {
    fn check(&mut self, binding: String, kind: String) -> wasmtime::Result<Result<(), String>> {
        Ok(self.extension().grants().check_callable(&binding, &kind))
    }
}

impl<T: Send> wit::HostWithStore<T> for Store {
    async fn call(
        accessor: &Accessor<T, Self>,
        binding: String,
        method: String,
        arguments: String,
    ) -> wasmtime::Result<Result<String, wit::Error>> {
        let admitted = accessor.with(|mut access| admit(access.get(), &binding, method, arguments));
        let answer = match admitted {
            Ok(admitted) => admitted.run().await,
            Err(error) => Err(error),
        };
        Ok(answer.map_err(|CallError { code, status, message }| wit::Error { code, status, message }))
    }
}
