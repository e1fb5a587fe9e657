//! The attributes that turn async functions into a worker's handlers.

use proc_macro::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ItemFn, ReturnType};

/// Makes the function below it the component's handler of HTTP requests.
///
/// The function is async, takes a `Request` and, if it wants them, an `Env` and a `Context`, and returns a
/// `Result<Response, E>` where `E` can be displayed. An `Err` answers 500 and is written to the log.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[fetch]
/// async fn main(req: Request, env: Env, ctx: Context) -> Result<Response> {
///     Response::ok(req.path())
/// }
/// # }
/// ```
///
/// There is one handler in a component.
///
/// ```compile_fail
/// # mod worker {
/// use host_sdk::*;
///
/// #[fetch]
/// fn not_async(req: Request) -> Result<Response> {
///     Response::ok("")
/// }
/// # }
/// ```
#[proc_macro_attribute]
pub fn fetch(arguments: TokenStream, item: TokenStream) -> TokenStream {
    bare(arguments, item, Kind::Fetch)
}

/// Makes the function below it the handler of messages of the queues that the binding file has the worker consume.
///
/// The function is async, takes a `MessageBatch<T>` and, if it wants them, an `Env` and a `Context`, and returns a
/// `Result<(), E>` where `E` can be displayed. After an `Err`, messages are delivered again of which nothing was said.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[queue]
/// async fn main(batch: MessageBatch<String>, env: Env, ctx: Context) -> Result<()> {
///     for message in batch.messages()? {
///         console_log!("{}", message.body());
///     }
///     Ok(())
/// }
/// # }
/// ```
#[proc_macro_attribute]
pub fn queue(arguments: TokenStream, item: TokenStream) -> TokenStream {
    bare(arguments, item, Kind::Queue)
}

/// Makes the function below it the handler of the schedules in the binding file.
///
/// The function is async, takes a `ScheduledEvent` and, if it wants them, an `Env` and a `ScheduleContext`, and returns
/// nothing or a `Result<(), E>` where `E` can be displayed.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[scheduled]
/// async fn main(event: ScheduledEvent, env: Env, ctx: ScheduleContext) {
///     console_log!("{}", event.cron());
/// }
/// # }
/// ```
#[proc_macro_attribute]
pub fn scheduled(arguments: TokenStream, item: TokenStream) -> TokenStream {
    bare(arguments, item, Kind::Scheduled)
}

/// A kind of handler.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fetch,
    Queue,
    Scheduled,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Queue => "queue",
            Self::Scheduled => "scheduled",
        }
    }

    /// What such a handler takes, and what it returns.
    fn shape(self) -> (&'static str, &'static str) {
        match self {
            Self::Fetch => {
                ("`req: Request`, then `env: Env` and `ctx: Context` if it wants them", "`Result<Response>`")
            }
            Self::Queue => {
                ("`batch: MessageBatch<T>`, then `env: Env` and `ctx: Context` if it wants them", "`Result<()>`")
            }
            Self::Scheduled => (
                "`event: ScheduledEvent`, then `env: Env` and `ctx: ScheduleContext` if it wants them",
                "nothing or `Result<()>`",
            ),
        }
    }
}

fn bare(arguments: TokenStream, item: TokenStream, kind: Kind) -> TokenStream {
    if arguments.is_empty() {
        return expand(item, kind);
    }
    let message = format!("`#[{}]` takes no arguments", kind.name());
    Error::new(proc_macro2::Span::call_site(), message).to_compile_error().into()
}

/// `#[event(fetch)]`, `#[event(queue)]` and `#[event(scheduled)]`: the same attributes by their older names.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[event(fetch)]
/// async fn main(_req: Request, _env: Env, _ctx: Context) -> Result<Response> {
///     Response::ok("hello")
/// }
/// # }
/// ```
#[proc_macro_attribute]
pub fn event(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let kinds = [Kind::Fetch, Kind::Queue, Kind::Scheduled];
    match syn::parse::<Ident>(arguments) {
        Ok(name) => match kinds.into_iter().find(|kind| name == kind.name()) {
            Some(kind) => expand(item, kind),
            None => {
                let message = format!("`{name}` events are not supported; use `fetch`, `queue` or `scheduled`");
                Error::new(name.span(), message).to_compile_error().into()
            }
        },
        Err(error) => Error::new(error.span(), "write `#[event(fetch)]`").to_compile_error().into(),
    }
}

fn expand(item: TokenStream, kind: Kind) -> TokenStream {
    let expanded = syn::parse::<ItemFn>(item).and_then(|function| {
        check(&function, kind)?;
        Ok(handler(&function, kind))
    });
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

fn check(function: &ItemFn, kind: Kind) -> Result<(), Error> {
    let (signature, name, (takes, returns)) = (&function.sig, kind.name(), kind.shape());
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span, format!("the {name} handler must be an `async fn`")));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), format!("the {name} handler cannot be generic")));
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return Err(Error::new(receiver.span(), format!("the {name} handler is a function, not a method")));
    }
    if !(1..=3).contains(&signature.inputs.len()) {
        return Err(Error::new(signature.inputs.span(), format!("the {name} handler takes {takes}")));
    }
    if let (ReturnType::Default, true) = (&signature.output, kind != Kind::Scheduled) {
        return Err(Error::new(signature.span(), format!("the {name} handler returns {returns}")));
    }
    Ok(())
}

fn handler(function: &ItemFn, kind: Kind) -> proc_macro2::TokenStream {
    let name = &function.sig.ident;
    let arguments = match function.sig.inputs.len() {
        1 => quote!(subject),
        2 => quote!(subject, env),
        _ => quote!(subject, env, ctx),
    };
    let body = match kind {
        Kind::Fetch => quote! {
            Fetch(|subject, env, ctx| ::std::boxed::Box::pin(async move {
                match #name(#arguments).await {
                    ::std::result::Result::Ok(response) => ::std::result::Result::Ok(response),
                    ::std::result::Result::Err(error) => {
                        ::std::result::Result::Err(::std::string::ToString::to_string(&error))
                    }
                }
            }))
        },
        Kind::Queue => quote! {
            Queue(|batch, env, ctx| {
                let subject = batch.retyped();
                ::std::boxed::Box::pin(async move {
                    ::host_sdk::__private::Outcome::outcome(#name(#arguments).await)
                })
            })
        },
        Kind::Scheduled => quote! {
            Scheduled(|subject, env, ctx| ::std::boxed::Box::pin(async move {
                ::host_sdk::__private::Outcome::outcome(#name(#arguments).await)
            }))
        },
    };
    quote! {
        #function

        #[allow(unused_variables)]
        const _: () = {
            ::host_sdk::__private::inventory::submit! {
                ::host_sdk::__private::Handler::#body
            }
        };
    }
}
