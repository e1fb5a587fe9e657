//! Tries to break every limit, one path a limit. `/` answers `ok`: a host that survived the others still serves it.
//!
//! | path | what it does |
//! | --- | --- |
//! | `/spin` | never stops computing |
//! | `/spin-after` | answers, then never stops computing in `wait_until` |
//! | `/grow` | takes memory until there is none, then answers how many bytes it got |
//! | `/exhaust` | takes memory until there is none, then aborts |
//! | `/flood` | writes log lines without end |
//! | `/endless` | a body without end, as fast as it is read |
//! | `/slow-drip?ms=N` | a body without end, one byte every N milliseconds (100 if not said) |
//! | `/big-body?bytes=N` | a body of N bytes in memory |
//! | `/big-headers?bytes=N` | a header of N bytes (a million if not said) |
//! | `/many-headers?n=N` | N headers |
//! | `/subrequests?url=U` | GETs of U, one after the other, until one fails; answers `{sent, error}` |
//! | `/panic` | panics |
//! | `/trap` | executes `unreachable` |
//! | `/overflow` | recurses without end |
//! | `/never` | waits without end |
//! | `/hog?ms=N` | computes and waits in turn, N milliseconds of waiting at a time, without end |

use host_sdk::futures_util::{StreamExt, stream};
use host_sdk::*;
use serde_json::json;
use std::hint::black_box;
use std::time::Duration;

#[fetch]
async fn main(req: Request, _env: Env, ctx: Context) -> Result<Response> {
    let url = req.url()?;
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let number = |name: &str, otherwise: u64| parameter(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    match url.path() {
        "/" => Response::ok("ok"),
        "/spin" => spin(),
        "/spin-after" => {
            ctx.wait_until(spin_later());
            Response::ok("answered")
        }
        "/grow" => Response::ok(grow().to_string()),
        "/exhaust" => exhaust(),
        "/flood" => flood(),
        "/endless" => Response::from_stream(stream::repeat_with(|| Ok::<_, Error>(vec![b'x'; 64 << 10]))),
        "/slow-drip" => {
            let pause = Duration::from_millis(number("ms", 100));
            Response::from_stream(stream::repeat(()).then(move |()| async move {
                sleep(pause).await;
                Ok::<_, Error>(".")
            }))
        }
        "/big-body" => Response::from_bytes(vec![b'x'; number("bytes", 1 << 20) as usize]),
        "/big-headers" => {
            let mut response = Response::ok("ok")?;
            response.headers_mut().set("x-big", &"x".repeat(number("bytes", 1_000_000) as usize))?;
            Ok(response)
        }
        "/many-headers" => {
            let mut response = Response::ok("ok")?;
            for index in 0..number("n", 10_000) {
                response.headers_mut().append(&format!("x-{index}"), "1")?;
            }
            Ok(response)
        }
        "/subrequests" => subrequests(&parameter("url").unwrap_or_default()).await,
        "/panic" => panic!("the guest panics as it was asked to"),
        "/trap" => trap(),
        "/overflow" => Response::ok(overflow(0).to_string()),
        "/never" => loop {
            sleep(Duration::from_secs(3600)).await;
        },
        "/hog" => loop {
            black_box((0..1_000_000u64).fold(0, |sum, n| sum ^ black_box(n)));
            sleep(Duration::from_millis(number("ms", 1))).await;
        },
        other => Response::error(format!("no such path: {other}"), 404),
    }
}

fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

async fn spin_later() {
    spin()
}

/// Takes memory a mebibyte at a time and touches all of it.
fn grow() -> usize {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() || taken.try_reserve(1).is_err() {
            return taken.iter().map(Vec::len).sum();
        }
        block.resize(1 << 20, 1);
        taken.push(black_box(block));
    }
}

fn exhaust() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1u8; 1 << 20]));
    }
}

fn flood() -> ! {
    let line = "flood ".repeat(100);
    loop {
        console_log!("{line}");
        console_error!("{line}");
    }
}

async fn subrequests(url: &str) -> Result<Response> {
    let mut sent = 0u64;
    loop {
        match Fetch::Url(url.parse()?).send().await {
            Ok(mut response) => {
                response.bytes().await?;
                sent += 1;
            }
            Err(error) => return Response::from_json(&json!({ "sent": sent, "error": error.to_string() })),
        }
    }
}

fn trap() -> ! {
    #[cfg(target_family = "wasm")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    std::process::abort();
}

#[allow(unconditional_recursion)]
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    overflow(depth + 1) + frame[(depth % 64) as usize]
}
