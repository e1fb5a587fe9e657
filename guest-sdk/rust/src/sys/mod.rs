//! The two flavours of WASI behind one small interface.
//!
//! The rest of the crate knows `IncomingRequest`, `HostStream`, `Timer`, `send`, `ai_run`, `call`, `bindings`,
//! `check_binding`, `explain_missing` and `spawn`, and not which WASI is below. Each flavour also brings the generated bindings and the export of the
//! handler. Only one is compiled, so that a component carries the imports of one.
//!
//! Nothing here runs on a native target: there the generated imports are stubs that panic. The crate still compiles
//! natively, for its tests and for editors.

use crate::Method;
use crate::body::Outgoing;
use crate::request::Target;

#[cfg(not(any(feature = "p2", feature = "p3")))]
compile_error!("host-sdk needs one of its features `p2` (WASI 0.2) and `p3` (WASI 0.3)");

#[cfg(not(feature = "p3"))]
mod executor;
#[cfg(not(feature = "p3"))]
mod p2;
#[cfg(not(feature = "p3"))]
use p2 as flavour;

#[cfg(feature = "p3")]
mod p3;
#[cfg(feature = "p3")]
use p3 as flavour;

mod convert;

#[doc(hidden)]
pub use flavour::generated;
pub(crate) use flavour::{
    HostStream, IncomingRequest, Timer, ai_run, bindings, call, check_binding, explain_missing, send, spawn,
};

/// The largest piece read from the host at once, in bytes.
const READ_SIZE: usize = 64 * 1024;

/// A request on its way out.
pub(crate) struct OutgoingRequest {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Outgoing,
}

/// A response on its way out.
pub(crate) struct OutgoingResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Outgoing,
}

/// A response on its way in.
pub(crate) struct IncomingResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: HostStream,
}

/// A model call.
pub(crate) struct AiCall {
    pub(crate) binding: String,
    pub(crate) model: String,
    pub(crate) inputs: String,
    pub(crate) attachments: Vec<crate::ai::Attachment>,
    pub(crate) options: String,
}

/// A model's answer.
pub(crate) struct AiReply {
    pub(crate) request_id: String,
    pub(crate) output: AiOutput,
}

/// What a model gave.
pub(crate) enum AiOutput {
    Json(String),
    Stream { content_type: String, body: HostStream },
}
