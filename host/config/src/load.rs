//! From the command line's choice of files to a project.
//!
//! The order of the work is that of the faults: every file is read and parsed before any is decoded, and decoding goes
//! on past every fault, so that one run lists all of them. Only a file whose syntax is broken is not decoded: what its
//! author meant is a guess, and faults that follow from a guess would hide the real one.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use crate::ai::AiParts;
use crate::diagnostic::{Diagnostic, Faults, quoted};
use crate::explain::Home;
use crate::keys;
use crate::layer;
use crate::names::{WorkerName, is_environment, is_variable};
use crate::paths::absolute;
use crate::project::{Dev, Project};
use crate::route::Route;
use crate::schema::{self, nearest};
use crate::seat::{self, Draft, Seat};
use crate::secrets::{self, SecretLine};
use crate::servers::{self, Keys};
use crate::source::{FileId, ReadError, Report, Span, read};
use crate::tree::{Document, Syntax};
use crate::worker::{Binding, Secret, Worker};
use crate::{jsonc_syntax, toml_syntax};

/// What to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where binding files are looked for, and what `files` are relative to. Empty means the working directory.
    pub directory: PathBuf,
    /// The binding files (`-c`). If there are none, the first that is there of [`FILE_NAMES`].
    pub files: Vec<PathBuf>,
    /// The environment (`--env`).
    pub env: Option<String>,
    /// Variables (`--var K=V`) that every worker gets as text, before those of the file and its secrets.
    pub vars: Vec<(String, String)>,
}

/// The names of binding files, in the order in which they are looked for.
pub const FILE_NAMES: [&str; 4] = ["wrangler-like.toml", "wrangler.toml", "wrangler.jsonc", "wrangler.json"];

/// Reads, checks and decodes the binding files.
///
/// # Errors
/// Every fault of every file, in the order of the files and their lines.
pub fn load(options: &LoadOptions) -> Result<Project, Faults> {
    let mut loader = Loader {
        options,
        report: Report::default(),
        files: Vec::new(),
        secrets: HashMap::new(),
        keys: BTreeSet::new(),
    };
    let project = loader.project();
    let warnings: Vec<Diagnostic> = loader.report.finish()?;
    Ok(Project { warnings, files: loader.files, ..project })
}

/// A parsed file and where it is.
struct BindingFile {
    document: Document,
    /// Absolute.
    path: PathBuf,
    /// The directory that paths in the file are relative to, absolute.
    directory: PathBuf,
}

struct Loader<'o> {
    options: &'o LoadOptions,
    report: Report,
    /// Every file that was read, absolute.
    files: Vec<PathBuf>,
    /// Secrets by directory.
    secrets: HashMap<PathBuf, Vec<SecretLine>>,
    /// Names of secrets that are keys of servers, of every file: no worker gets them.
    keys: BTreeSet<String>,
}

impl Loader<'_> {
    fn project(&mut self) -> Project {
        let mut files = Vec::new();
        for path in self.paths() {
            files.extend(self.open(&path));
        }
        let mut parts = AiParts::default();
        for file in &files {
            schema::check(&file.document, &keys::ROOT, &mut self.report);
            let keys = self.keys(file);
            parts.add(&file.document, &file.directory, &keys, &mut self.report);
        }
        let workers = self.workers(&files);
        Project {
            workers,
            ai: parts.finish(&mut self.report),
            dev: self.dev(&files),
            warnings: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The files to read, as a person would name them.
    fn paths(&mut self) -> Vec<PathBuf> {
        let directory = &self.options.directory;
        if !self.options.files.is_empty() {
            return self.options.files.iter().map(|file| directory.join(file)).collect();
        }
        let present: Vec<&str> = FILE_NAMES.into_iter().filter(|name| directory.join(name).exists()).collect();
        let Some(first) = present.first() else {
            let shown = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let place = self.report.add(shown.to_owned(), String::new(), false);
            let message = format!("no binding file here: looked for {}", FILE_NAMES.join(", "));
            self.report.file_error(place, message, Some("write one, or name it with `-c FILE`".into()));
            return Vec::new();
        };
        // A file for this host beside one for Cloudflare is usual; two for Cloudflare are most likely a leftover.
        if *first != FILE_NAMES[0] && present.len() > 1 {
            let place = self.report.add(directory.join(first), String::new(), false);
            let message = format!("{} is here too and is not read", present[1..].join(", "));
            self.report.file_warning(place, message, Some("name the file with `-c FILE`, or remove the other".into()));
        }
        vec![directory.join(first)]
    }

    /// Reads and parses one file.
    fn open(&mut self, shown: &Path) -> Option<BindingFile> {
        let syntax = Syntax::of(shown);
        let text = match syntax {
            Some(_) => read(shown),
            None => Ok(String::new()),
        };
        let (text, fault) = match text {
            Ok(text) => (text, None),
            Err(error) => (String::new(), Some(error)),
        };
        let file = self.report.add(shown.to_owned(), text, false);
        if let Some(error) = fault {
            self.unreadable(file, &error);
            return None;
        }
        let document = match syntax {
            Some(Syntax::Toml) => toml_syntax::parse(file, &mut self.report)?,
            Some(Syntax::Jsonc) => jsonc_syntax::parse(file, &mut self.report)?,
            None if shown.is_dir() => {
                let help = "name a file in it";
                self.report.file_error(file, "this is a directory", Some(help.into()));
                return None;
            }
            None => {
                let help = "its name ends in `.toml`, `.json` or `.jsonc`";
                self.report.file_error(file, "this is no binding file by its name", Some(help.into()));
                return None;
            }
        };
        let path = absolute(Path::new(""), shown).unwrap_or_else(|| shown.to_owned());
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        self.files.push(path.clone());
        Some(BindingFile { document, path, directory })
    }

    fn unreadable(&mut self, file: FileId, error: &ReadError) {
        let message = match error {
            ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound => "there is no such file".to_owned(),
            error => format!("the file {error}"),
        };
        self.report.file_error(file, message, None);
    }

    fn workers(&mut self, files: &[BindingFile]) -> Vec<Worker> {
        let mut seats: Vec<(&BindingFile, Seat<'_>)> = Vec::new();
        for file in files {
            let found = Seat::all(&file.document, &mut self.report);
            seats.extend(found.into_iter().map(|seat| (file, seat)));
        }
        let known = self.check_environment(&seats);
        let command_line = self.command_line();
        let mut drafts: Vec<Draft> = Vec::new();
        for (file, seat) in &seats {
            if known {
                self.check_seat(seat);
            }
            drafts.extend(self.worker(file, seat, command_line));
        }
        self.check_unique(&drafts);
        drafts.into_iter().map(|draft| draft.worker).collect()
    }

    /// A chosen environment must be one that some worker has. Returns whether it is.
    fn check_environment(&mut self, seats: &[(&BindingFile, Seat<'_>)]) -> bool {
        let Some(name) = &self.options.env else { return true };
        let mut known: Vec<&str> = seats.iter().flat_map(|(_, seat)| seat.environments()).collect();
        if known.contains(&name.as_str()) {
            return true;
        }
        known.sort_unstable();
        known.dedup();
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean {}?", quoted(near)),
            None if known.is_empty() => "the files have no `[env.…]` table".to_owned(),
            None => format!("the environments are {}", listed(known.iter().copied())),
        };
        let message = format!("no environment {} in the binding files", quoted(name));
        let place = self.report.add(PathBuf::from("--env"), String::new(), false);
        self.report.file_error(place, message, Some(help));
        false
    }

    /// A worker with environments must have the chosen one; a worker without any is the same in all.
    fn check_seat(&mut self, seat: &Seat<'_>) {
        let Some(wanted) = self.options.env.as_deref() else { return };
        let known = seat.environments();
        if !known.is_empty() && !known.contains(&wanted) {
            let message = format!("this worker has no environment {}", quoted(wanted));
            let help = format!("its environments are {}", listed(known.into_iter()));
            self.report.error_with_help(seat.span, message, help);
        }
    }

    /// Checks `--var`; the place of its faults.
    fn command_line(&mut self) -> Option<FileId> {
        if self.options.vars.is_empty() {
            return None;
        }
        let place = self.report.add(PathBuf::from("--var"), String::new(), false);
        for (name, _) in &self.options.vars {
            if !is_variable(name) {
                let help = "a variable's name has letters, digits, `_`, `.`, `-` and `$`";
                let message = format!("{} is no name for a variable", quoted(name));
                self.report.file_error(place, message, Some(help.into()));
            }
        }
        Some(place)
    }

    /// Puts one worker together; none if it has no usable name or nothing to answer with.
    fn worker(&mut self, file: &BindingFile, seat: &Seat<'_>, command_line: Option<FileId>) -> Option<Draft> {
        // Every environment is decoded for its faults; one of them counts.
        let top = layer::decode(seat.table, seat.span, &mut self.report);
        let mut chosen = None;
        for (name, table, span) in seat.environment_tables() {
            if !is_environment(name) {
                let help = "a name has letters, digits, `_`, `-` and `.`, and starts with no dot";
                self.report.error_with_help(span, format!("{} is no name for an environment", quoted(name)), help);
            }
            let layer = layer::decode(table, span, &mut self.report);
            if self.options.env.as_deref() == Some(name) {
                chosen = Some((name, layer));
            }
        }
        let environment = chosen.as_ref().map(|(name, _)| (*name).to_owned());
        let layer = match chosen {
            Some((name, layer)) => seat::inherit(top, name, layer, &mut self.report),
            None => top,
        };
        let home = Home { syntax: file.document.syntax, listed: seat.listed, environment };
        let mut draft = seat::assemble(layer, &file.path, &file.directory, home, &mut self.report)?;
        self.add_secrets(file, &mut draft.worker);
        self.add_variables(command_line, &mut draft.worker);
        Some(draft)
    }

    /// The keys that a file's servers are shown.
    fn keys(&mut self, file: &BindingFile) -> Keys {
        let names = servers::key_names(&file.document);
        if names.is_empty() {
            return Keys::new();
        }
        let lines = self.secrets_of(file);
        let value = |name: &String| {
            let line = lines.iter().find(|line| line.name == *name).map(|line| line.value.clone());
            let value = line.or_else(|| std::env::var(name).ok()).filter(|value| !value.is_empty());
            (name.clone(), value.map(Secret::new))
        };
        let keys = names.iter().map(value).collect();
        self.keys.extend(names);
        keys
    }

    fn secrets_of(&mut self, file: &BindingFile) -> Vec<SecretLine> {
        match self.secrets.get(&file.directory) {
            Some(lines) => lines.clone(),
            None => {
                let lines = self.read_secrets(file);
                self.secrets.insert(file.directory.clone(), lines.clone());
                lines
            }
        }
    }

    fn add_secrets(&mut self, file: &BindingFile, worker: &mut Worker) {
        for line in self.secrets_of(file).into_iter().filter(|line| !self.keys.contains(&line.name)).collect::<Vec<_>>()
        {
            match worker.bindings.get(&line.name) {
                None | Some(Binding::Text(_) | Binding::Json(_)) => {
                    worker.bindings.insert(line.name, Binding::Secret(Secret::new(line.value)));
                }
                Some(_) => {
                    let message = format!("{} is a binding of the worker `{}`", quoted(&line.name), worker.name);
                    self.report.error_with_help(line.span, message, "a secret needs a name of its own");
                }
            }
        }
    }

    fn read_secrets(&mut self, file: &BindingFile) -> Vec<SecretLine> {
        let shown_directory = self.report.shown(file.document.file).parent().map(Path::to_owned).unwrap_or_default();
        let environment = self.options.env.as_deref().filter(|name| is_environment(name));
        let Some(shown) = secrets::find(&shown_directory, environment) else { return Vec::new() };
        let (text, fault) = match read(&shown) {
            Ok(text) => (text, None),
            Err(error) => (String::new(), Some(error)),
        };
        self.files.push(absolute(Path::new(""), &shown).unwrap_or_else(|| shown.clone()));
        let id = self.report.add(shown, text, true);
        if let Some(error) = fault {
            self.unreadable(id, &error);
        }
        secrets::parse(id, &mut self.report)
    }

    fn add_variables(&mut self, command_line: Option<FileId>, worker: &mut Worker) {
        for (name, value) in &self.options.vars {
            match worker.bindings.get(name) {
                None | Some(Binding::Text(_) | Binding::Json(_) | Binding::Secret(_)) => {
                    worker.bindings.insert(name.clone(), Binding::Text(value.clone()));
                }
                Some(_) => {
                    let message = format!("{} is a binding of the worker `{}`", quoted(name), worker.name);
                    if let Some(place) = command_line {
                        self.report.file_error(place, message, Some("a variable needs a name of its own".into()));
                    }
                }
            }
        }
    }

    /// No two workers share a name, a route or a queue to consume.
    fn check_unique(&mut self, drafts: &[Draft]) {
        let mut names: HashMap<&WorkerName, Span> = HashMap::new();
        let mut routes: HashMap<&Route, (&WorkerName, Span)> = HashMap::new();
        let mut queues: HashMap<&str, (&WorkerName, Span)> = HashMap::new();
        for Draft { worker, name_span, route_spans, consumer_spans } in drafts {
            if let Some(there) = names.insert(&worker.name, *name_span) {
                let message = format!("another worker is named `{}`: {}", worker.name, self.place(there, *name_span));
                self.report.error_with_help(*name_span, message, "every worker needs a name of its own");
            }
            for (route, span) in worker.routes.iter().zip(route_spans) {
                if let Some((other, there)) = routes.insert(route, (&worker.name, *span)) {
                    let place = self.place(there, *span);
                    self.report.error(*span, format!("the route `{route}` belongs to `{other}` already: {place}"));
                }
            }
            for (consumer, span) in worker.consumers.iter().zip(consumer_spans) {
                if let Some((other, there)) = queues.insert(&consumer.queue, (&worker.name, *span)) {
                    let (queue, place) = (&consumer.queue, self.place(there, *span));
                    let message =
                        format!("the queue `{queue}` is consumed by `{other}` and by `{}`: {place}", worker.name);
                    self.report.error_with_help(*span, message, "a queue has one worker that handles its messages");
                }
            }
        }
    }

    fn place(&self, there: Span, here: Span) -> String {
        let line = self.report.line(there);
        if there.file == here.file {
            format!("in line {line}")
        } else {
            format!("in {}:{line}", self.report.shown(there.file).display())
        }
    }

    /// `[dev]` of the first file that has one.
    fn dev(&mut self, files: &[BindingFile]) -> Dev {
        let mut found: Option<(Dev, FileId)> = None;
        for document in files.iter().map(|file| &file.document) {
            let Some(entry) = document.root.get("dev") else { continue };
            let Some(table) = entry.node.as_table() else { continue };
            let dev = Dev::decode(table, &mut self.report);
            match &found {
                None => found = Some((dev, document.file)),
                Some((first, file)) if *first != dev => {
                    let message = format!("`dev` of {} counts, not this one", self.report.shown(*file).display());
                    self.report.warn(entry.key_span, message, None);
                }
                Some(_) => {}
            }
        }
        found.map(|(dev, _)| dev).unwrap_or_default()
    }
}

/// Names for a message, not more than ten.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 10;
    let mut names: Vec<String> = names.take(MOST + 1).map(quoted).collect();
    if names.len() > MOST {
        names[MOST] = "…".into();
    }
    names.join(", ")
}
