//! Conversions between the generated types of a flavour and those of this crate.
//!
//! Both flavours generate the same enums as different types, so the code is written once as a macro over the module
//! that holds them.

/// Writes the conversions for the flavour around it, which names its generated `wasi:http/types` `wit_http`,
/// `workers:ai/inference` `wit_ai`, `workers:bindings/calls` `wit_calls` and `workers:env/env` `wit_env`.
macro_rules! conversions {
    () => {
        fn method_from_host(method: wit_http::Method) -> crate::Method {
            match method {
                wit_http::Method::Get => crate::Method::Get,
                wit_http::Method::Head => crate::Method::Head,
                wit_http::Method::Post => crate::Method::Post,
                wit_http::Method::Put => crate::Method::Put,
                wit_http::Method::Patch => crate::Method::Patch,
                wit_http::Method::Delete => crate::Method::Delete,
                wit_http::Method::Options => crate::Method::Options,
                wit_http::Method::Connect => crate::Method::Connect,
                wit_http::Method::Trace => crate::Method::Trace,
                wit_http::Method::Other(name) => crate::Method::Other(name),
            }
        }

        fn method_to_host(method: crate::Method) -> wit_http::Method {
            match method {
                crate::Method::Get => wit_http::Method::Get,
                crate::Method::Head => wit_http::Method::Head,
                crate::Method::Post => wit_http::Method::Post,
                crate::Method::Put => wit_http::Method::Put,
                crate::Method::Patch => wit_http::Method::Patch,
                crate::Method::Delete => wit_http::Method::Delete,
                crate::Method::Options => wit_http::Method::Options,
                crate::Method::Connect => wit_http::Method::Connect,
                crate::Method::Trace => wit_http::Method::Trace,
                crate::Method::Other(name) => wit_http::Method::Other(name),
            }
        }

        fn scheme_from_host(scheme: wit_http::Scheme) -> String {
            match scheme {
                wit_http::Scheme::Http => "http".into(),
                wit_http::Scheme::Https => "https".into(),
                wit_http::Scheme::Other(name) => name,
            }
        }

        fn scheme_to_host(scheme: &str) -> wit_http::Scheme {
            match scheme {
                "http" => wit_http::Scheme::Http,
                "https" => wit_http::Scheme::Https,
                other => wit_http::Scheme::Other(other.into()),
            }
        }

        /// The host's headers, or the name of the first one that it refuses.
        fn fields(entries: Vec<(String, Vec<u8>)>) -> crate::Result<wit_http::Fields> {
            wit_http::Fields::from_list(&entries).map_err(|error| {
                let probe = wit_http::Fields::new();
                let culprit = entries.iter().find(|(name, value)| probe.append(name, value).is_err());
                refused(culprit.map_or("?", |(name, _)| name), &error)
            })
        }

        fn refused(name: &str, error: &wit_http::HeaderError) -> crate::Error {
            crate::Error::Header { name: name.into(), reason: format!("the host refuses it: {error:?}") }
        }

        /// Why the host gave no response, in words where the cause is one that an author can act on.
        fn explain(code: &wit_http::ErrorCode) -> String {
            use wit_http::ErrorCode as Code;
            let advice = match code {
                Code::DestinationIpProhibited => "the host does not allow workers to reach this address",
                Code::HttpRequestDenied => "the host does not allow this request",
                Code::DnsError(_) | Code::DestinationNotFound => "the name has no address",
                Code::ConnectionRefused => "nothing listens there",
                Code::ConnectionLimitReached => "too many sub-requests",
                Code::InternalError(Some(message)) => return message.clone(),
                other => return format!("{other:?}"),
            };
            format!("{advice} ({code:?})")
        }

        fn ai_request(call: super::AiCall) -> wit_ai::Request {
            let attachments = call.attachments.into_iter().map(|attachment| wit_ai::Attachment {
                property: attachment.property,
                content_type: attachment.content_type,
                data: attachment.data,
            });
            wit_ai::Request {
                binding: call.binding,
                model: call.model,
                inputs: call.inputs,
                attachments: attachments.collect(),
                options: call.options,
            }
        }

        fn ai_error(error: wit_ai::Error) -> crate::Error {
            crate::Error::Ai(crate::AiError {
                code: error.code,
                status: error.status,
                message: error.message,
                retry_after: error.retry_after,
            })
        }

        fn call_error(error: wit_calls::Error) -> crate::Error {
            crate::Error::Binding(crate::BindingError {
                code: error.code,
                status: error.status,
                message: error.message,
            })
        }

        /// Whether the binding file grants `binding` as a `kind` that is called by method.
        pub(crate) fn check_binding(binding: &str, kind: &str) -> crate::Result<()> {
            wit_calls::check(binding, kind).map_err(crate::Error::MissingBinding)
        }

        /// Every binding of this worker.
        pub(crate) fn bindings() -> Vec<crate::env::Binding> {
            use crate::BindingKind;
            let kind = |kind| match kind {
                wit_env::Kind::Text => BindingKind::Text,
                wit_env::Kind::Json => BindingKind::Json,
                wit_env::Kind::Secret => BindingKind::Secret,
                wit_env::Kind::Ai => BindingKind::Ai,
            };
            wit_env::bindings()
                .into_iter()
                .map(|entry| crate::env::Binding { name: entry.name, kind: kind(entry.kind), value: entry.value })
                .collect()
        }

        /// The host's message about a binding that is not granted.
        pub(crate) fn explain_missing(name: &str, kind: crate::BindingKind) -> String {
            use crate::BindingKind;
            let kind = match kind {
                BindingKind::Text => wit_env::Kind::Text,
                BindingKind::Json => wit_env::Kind::Json,
                BindingKind::Secret => wit_env::Kind::Secret,
                BindingKind::Ai => wit_env::Kind::Ai,
            };
            wit_env::explain_missing(name, kind)
        }
    };
}

pub(super) use conversions;
