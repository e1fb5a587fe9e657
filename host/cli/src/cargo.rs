//! Workers in Rust by their `Cargo.toml`: cargo builds them, and knows itself what is stale.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a component is built for.
const TARGET: &str = "wasm32-wasip2";

/// Builds the package of a manifest, and names the component that it makes. Cargo's own words go to standard error.
///
/// # Errors
/// What kept it from being built, for people.
pub(crate) fn build(manifest: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    build.arg("--manifest-path").arg(manifest).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = build.spawn().map_err(|error| format!("cargo cannot be started ({error}); install Rust"))?;
    let lines = running.stdout.take().map(BufReader::new);
    let messages = lines.into_iter().flat_map(|lines| lines.lines().map_while(Result::ok));
    let component = messages.filter_map(|line| component(&line, manifest)).last();
    match running.wait() {
        Ok(status) if status.success() => component.ok_or_else(|| {
            "the package makes no component; add to its Cargo.toml\n[lib]\ncrate-type = [\"cdylib\"]".to_owned()
        }),
        Ok(_) => Err(format!("cargo build failed; if the target is missing: rustup target add {TARGET}")),
        Err(error) => Err(format!("cargo cannot be waited for: {error}")),
    }
}

/// The component in a message of cargo's, if it is the package's own.
fn component(message: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let own = message["reason"] == "compiler-artifact"
        && message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest);
    let files = message["filenames"].as_array().filter(|_| own)?;
    let files = files.iter().filter_map(Value::as_str).map(PathBuf::from);
    files.into_iter().find(|file| file.extension().is_some_and(|ending| ending == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_of_the_package_itself_is_found() {
        let message = |manifest: &str, file: &str| {
            format!(r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}","filenames":["{file}"]}}"#)
        };
        let found = |text: &str| component(text, Path::new("/w/Cargo.toml"));
        assert_eq!(found(&message("/w/Cargo.toml", "/t/w.wasm")), Some("/t/w.wasm".into()));
        assert_eq!(found(&message("/other/Cargo.toml", "/t/o.wasm")), None);
        assert_eq!(found(&message("/w/Cargo.toml", "/t/libw.rlib")), None);
        assert_eq!(found("warning: no JSON"), None);
    }
}
