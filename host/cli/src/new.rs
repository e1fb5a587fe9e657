//! `host new`: a project that builds and runs as it is.

mod place;
mod sdk;
mod template;

use std::fmt::Write as _;
use std::path::Path;

use crate::args::NewArgs;
use crate::exit::{Done, Failed};
use place::Place;
use template::Template;

/// Writes a project, or lists what there is to make one from.
pub(crate) fn run(args: NewArgs) -> Done {
    let Some(path) = args.name.filter(|_| !args.list) else {
        print!("{}", template::list());
        return Ok(());
    };
    let template = template::find(args.template.as_deref(), args.lang).map_err(Failed::usage)?;
    let place = Place::new(&path).map_err(Failed::usage)?;
    let sdk = match template.needs_sdk() {
        true => sdk::source(args.sdk.as_deref()).map_err(Failed::usage)?,
        false => String::new(),
    };
    let files = template.files(place.name(), &sdk);
    place.write(&files)?;
    print!("{}", next(template, &path, files.len()));
    Ok(())
}

/// What was made, and what to do with it.
fn next(template: &Template, path: &Path, files: usize) -> String {
    let mut text = String::new();
    let (name, lang) = (template.name, template.lang.title());
    let _ =
        writeln!(text, "{} is a project made from the template `{name}` in {lang} ({files} files).", path.display());
    let _ = writeln!(text, "\nServe it:\n  cd {}", quoted(path));
    for line in commands(template) {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "\nAsk it, from another terminal:");
    for request in template.requests {
        let _ = writeln!(text, "  curl {request}");
    }
    let _ = writeln!(text, "\nREADME.md says more.");
    text
}

/// What serves a project, from inside it.
fn commands(template: &Template) -> &'static [&'static str] {
    match (template.needs_sdk(), template.models) {
        (true, _) => &[
            "rustup target add wasm32-wasip2",
            "host dev               # builds it, fetches the models that wrangler.toml names, once, and serves",
        ],
        (false, true) => &["host dev               # fetches the models that wrangler.toml names, once, and serves"],
        (false, false) => &["host dev"],
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if path.chars().all(plain) && !path.starts_with('-') { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_would_read_them_otherwise() {
        for (path, expected) in [("demo", "demo"), ("a b/demo", "'a b/demo'"), ("it's/demo", r"'it'\''s/demo'")] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }

    #[test]
    fn the_next_steps_fit_the_template() {
        for template in template::TEMPLATES {
            let text = next(template, Path::new("a/demo"), 3);
            assert!(text.contains("  cd a/demo\n") && text.contains("  curl "), "{text}");
            assert_eq!(text.contains("fetches the models"), template.models || template.needs_sdk(), "{text}");
            assert_eq!(text.contains("rustup target add"), template.needs_sdk(), "{text}");
        }
    }
}
