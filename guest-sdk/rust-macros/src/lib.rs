//! The attribute that turns an async function into a worker's handler.

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
    if arguments.is_empty() {
        return expand(item);
    }
    Error::new(proc_macro2::Span::call_site(), "`#[fetch]` takes no arguments").to_compile_error().into()
}

/// `#[event(fetch)]`, which is `#[fetch]` by its older name.
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
    match syn::parse::<Ident>(arguments) {
        Ok(kind) if kind == "fetch" => expand(item),
        Ok(kind) => {
            Error::new(kind.span(), format!("`{kind}` events are not supported; use `fetch`")).to_compile_error().into()
        }
        Err(error) => Error::new(error.span(), "write `#[event(fetch)]`").to_compile_error().into(),
    }
}

fn expand(item: TokenStream) -> TokenStream {
    let expanded = syn::parse::<ItemFn>(item).and_then(|function| {
        check(&function)?;
        Ok(handler(&function))
    });
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

fn check(function: &ItemFn) -> Result<(), Error> {
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span, "the fetch handler must be an `async fn`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "the fetch handler cannot be generic"));
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return Err(Error::new(receiver.span(), "the fetch handler is a function, not a method"));
    }
    if !(1..=3).contains(&signature.inputs.len()) {
        let message = "the fetch handler takes `req: Request`, then `env: Env` and `ctx: Context` if it wants them";
        return Err(Error::new(signature.inputs.span(), message));
    }
    if let ReturnType::Default = signature.output {
        return Err(Error::new(signature.span(), "the fetch handler returns `Result<Response>`"));
    }
    Ok(())
}

fn handler(function: &ItemFn) -> proc_macro2::TokenStream {
    let name = &function.sig.ident;
    let arguments = match function.sig.inputs.len() {
        1 => quote!(request),
        2 => quote!(request, env),
        _ => quote!(request, env, ctx),
    };
    quote! {
        #function

        const _: () = {
            // Natively nothing calls the handler, and that is no fault of the worker's.
            #[allow(dead_code)]
            struct FetchHandler;

            impl ::host_sdk::__private::Worker for FetchHandler {
                #[allow(unused_variables)]
                async fn fetch(
                    request: ::host_sdk::Request,
                    env: ::host_sdk::Env,
                    ctx: ::host_sdk::Context,
                ) -> ::std::result::Result<::host_sdk::Response, ::std::string::String> {
                    match #name(#arguments).await {
                        ::std::result::Result::Ok(response) => ::std::result::Result::Ok(response),
                        ::std::result::Result::Err(error) => {
                            ::std::result::Result::Err(::std::string::ToString::to_string(&error))
                        }
                    }
                }
            }

            #[cfg(target_family = "wasm")]
            ::host_sdk::__private::export!(FetchHandler with_types_in ::host_sdk::__private::generated);
        };
    }
}
