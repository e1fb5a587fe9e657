//! The table of bindings that `host serve` and `host check` print.

use std::fmt::Write as _;

use host_config::{Binding, Project, Worker};

/// One line a binding: its name, what it is, and what it stands for. Secrets show no value.
pub(crate) fn bindings(project: &Project) -> String {
    let mut table = String::new();
    for worker in &project.workers {
        let rows: Vec<_> = worker.bindings.iter().map(|(name, binding)| (name, describe(binding))).collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let _ = writeln!(table, "{} ({})", worker.name, routes(worker));
        for (name, (kind, value)) in &rows {
            let _ = writeln!(table, "  env.{name:width$}  {kind:<8}  {value}");
        }
        if rows.is_empty() {
            let _ = writeln!(table, "  no bindings");
        }
    }
    for (alias, model) in &project.ai.aliases {
        let _ = writeln!(table, "{alias} is answered by {model}");
    }
    table
}

fn routes(worker: &Worker) -> String {
    let mut places = vec![format!("{}.localhost", worker.name)];
    places.extend(worker.routes.iter().map(ToString::to_string));
    places.join(", ")
}

fn describe(binding: &Binding) -> (&'static str, String) {
    match binding {
        Binding::Text(text) => ("Variable", shorten(&format!("{text:?}"))),
        Binding::Json(json) => ("Variable", shorten(&json.to_string())),
        Binding::Secret(_) => ("Secret", "(hidden)".to_owned()),
        Binding::Ai(grant) => match &grant.models {
            Some(models) => ("AI", shorten(&models.join(", "))),
            None => ("AI", "all models".to_owned()),
        },
        Binding::Other { section } => ("-", format!("[{section}] is read but not served by this version")),
        _ => ("-", String::new()),
    }
}

fn shorten(text: &str) -> String {
    const WIDTH: usize = 60;
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
