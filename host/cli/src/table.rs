//! The table of bindings that `host serve` and `host check` print.

use std::fmt::Write as _;

use host_config::{Assets, Binding, ModelSource, Project, Worker};

/// One line a binding: its name, what it is, and what it stands for. Secrets show no value.
pub(crate) fn bindings(project: &Project) -> String {
    let mut table = String::new();
    for worker in &project.workers {
        let rows: Vec<_> = worker.bindings.iter().map(|(name, binding)| (name, describe(binding, worker))).collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let _ = writeln!(table, "{} ({})", worker.name, routes(worker));
        for (name, (kind, value)) in &rows {
            let _ = writeln!(table, "  env.{name:width$}  {kind:<9}  {value}");
        }
        if rows.is_empty() {
            let _ = writeln!(table, "  no bindings");
        }
        for consumer in &worker.consumers {
            let _ = writeln!(table, "  handles messages of the queue {}", consumer.queue);
        }
        for cron in &worker.crons {
            let _ = writeln!(table, "  runs on schedule {cron}");
        }
        if let Some(assets) = worker.assets.as_ref().filter(|assets| assets.binding.is_none()) {
            let _ = writeln!(table, "  serves the files of {}", directory(assets));
        }
    }
    for model in &project.ai.models {
        if let ModelSource::OpenAi(remote) = &model.source {
            let _ = writeln!(table, "{} is answered by {}", model.name, remote.servers.urls.join(", "));
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

fn describe(binding: &Binding, worker: &Worker) -> (&'static str, String) {
    match binding {
        Binding::Text(text) => ("Variable", shorten(&format!("{text:?}"))),
        Binding::Json(json) => ("Variable", shorten(&json.to_string())),
        Binding::Secret(_) => ("Secret", "(hidden)".to_owned()),
        Binding::Ai(grant) => match &grant.models {
            Some(models) => ("AI", shorten(&models.join(", "))),
            None => ("AI", "all models".to_owned()),
        },
        Binding::Assets => ("Assets", worker.assets.as_ref().map_or(String::new(), directory)),
        Binding::Service { service, .. } => ("Service", service.clone()),
        Binding::Queue { queue, .. } => ("Queue", queue.clone()),
        Binding::Vectorize { index, .. } => ("Vectorize", index.clone()),
        Binding::Other { section } => ("-", format!("[{section}] is read but not served by this version")),
        _ => ("-", String::new()),
    }
}

/// The directory of a worker's files, as seen from here where it lies below.
fn directory(assets: &Assets) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match assets.directory.strip_prefix(here) {
        Ok(below) if !below.as_os_str().is_empty() => below.display().to_string(),
        _ => assets.directory.display().to_string(),
    }
}

fn shorten(text: &str) -> String {
    const WIDTH: usize = 60;
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
