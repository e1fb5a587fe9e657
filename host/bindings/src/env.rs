//! `workers:env`: variables, secrets and the names of a worker's bindings.

use host_config::Missing;
use host_runtime::State;
use wasmtime::component::Linker;

use crate::grants::EnvValue;
use crate::{Bindings, Store};

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "package host:bindings; world env { import workers:env/env@0.1.0; }",
        imports: { default: trappable },
    });
}

use generated::workers::env::env as wit;

pub(crate) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, Store>(linker, |state| state)
}

impl wit::Host for State<Bindings> {
    fn bindings(&mut self) -> wasmtime::Result<Vec<wit::Binding>> {
        let entries = self.extension().grants().env().iter().filter_map(|(name, value)| {
            let (kind, value) = match value {
                EnvValue::Text(text) => (wit::Kind::Text, text.clone()),
                EnvValue::Json(json) => (wit::Kind::Json, json.to_string()),
                EnvValue::Secret(secret) => (wit::Kind::Secret, secret.expose().to_owned()),
                EnvValue::Ai(_) => (wit::Kind::Ai, String::new()),
                // Released versions of the interface have no kind for these.
                EnvValue::Assets(_) | EnvValue::Service(_) | EnvValue::Callable(_) => return None,
            };
            Some(wit::Binding { name: name.clone(), kind, value })
        });
        Ok(entries.collect())
    }

    fn explain_missing(&mut self, name: String, kind: wit::Kind) -> wasmtime::Result<String> {
        let missing = match kind {
            wit::Kind::Text | wit::Kind::Json => Missing::Variable,
            wit::Kind::Secret => Missing::Secret,
            wit::Kind::Ai => Missing::Ai,
        };
        Ok(self.extension().grants().explain_missing(missing, &name))
    }
}
