//! What a project is made from, and where more of it may appear.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use host_config::{FILE_NAMES, Main, Project};

use super::watcher::Watched;
use crate::args::ProjectArgs;
use crate::prepare::Workshop;

/// Files of a folder, or of one above it, that decide what an import means. Package managers write the last of them when
/// they have installed something, so that the files of packages need no watching.
const DECIDING: [&str; 8] = [
    "package.json",
    "tsconfig.json",
    "jsconfig.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "node_modules/.package-lock.json",
];
/// Folders above a source that are looked at.
const ABOVE: usize = 32;
/// Folders below those of the sources that are watched for what a broken build lacks.
const BELOW: usize = 512;

/// What matters to a project. After a failed build that is more: the sources that it found missing may appear in any
/// folder below.
pub(crate) fn of(args: &ProjectArgs, project: &Project, workshop: &Workshop, failed: bool) -> Watched {
    let mut watched = Watched::default();
    binding_files(args, project, &mut watched.files);
    for worker in &project.workers {
        let Some(main) = &worker.main else { continue };
        watched.files.insert(main.path().to_owned());
        if let Main::Cargo(manifest) = main {
            package(manifest, &mut watched);
        }
        let Main::Script(entry) = main else { continue };
        let inputs = workshop.built(worker.name.as_str()).map_or(&[][..], |built| &built.inputs);
        let own = inputs.iter().filter(|input| !input.iter().any(|part| part == "node_modules"));
        for source in own.chain([entry]) {
            watched.files.insert(source.clone());
            watched.folders.extend(source.parent().map(Path::to_owned));
        }
        deciding(entry, worker.file.parent(), &mut watched.files);
    }
    if failed {
        add_below(&mut watched.folders);
    }
    watched
}

/// The sources of a package in Rust. What it depends on elsewhere is found by the next build.
fn package(manifest: &Path, watched: &mut Watched) {
    let Some(folder) = manifest.parent() else { return };
    watched.files.extend(["Cargo.toml", "Cargo.lock", "build.rs"].map(|name| folder.join(name)));
    let mut sources = BTreeSet::from([folder.join("src")]);
    add_below(&mut sources);
    watched.folders.extend(sources);
}

fn binding_files(args: &ProjectArgs, project: &Project, files: &mut BTreeSet<PathBuf>) {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    files.extend(project.files.iter().cloned());
    files.extend(args.config.iter().filter_map(|file| absolute(file)));
    if args.config.is_empty() {
        files.extend(FILE_NAMES.iter().filter_map(|name| absolute(Path::new(name))));
    }
    let folders: BTreeSet<PathBuf> = files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
    for folder in folders {
        files.extend([".dev.vars", ".env"].map(|name| folder.join(name)));
        files.extend(args.env.iter().map(|env| folder.join(format!(".dev.vars.{env}"))));
    }
}

/// Adds the files that decide what the imports of a script mean: from its folder up to that of the binding file, and
/// above where there are any.
fn deciding(entry: &Path, project: Option<&Path>, files: &mut BTreeSet<PathBuf>) {
    for folder in entry.ancestors().skip(1).take(ABOVE) {
        let near = project.is_some_and(|project| folder.starts_with(project));
        let here = DECIDING.iter().map(|name| folder.join(name));
        files.extend(here.filter(|file| near || file.is_file()));
    }
}

/// Adds the folders below, but for those of packages and those that are hidden.
fn add_below(folders: &mut BTreeSet<PathBuf>) {
    let mut waiting: Vec<PathBuf> = folders.iter().cloned().collect();
    let mut left = BELOW;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let skipped = name.as_encoded_bytes().starts_with(b".") || name == "node_modules" || name == "target";
            if skipped || !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !folders.insert(entry.path()) {
                continue;
            }
            waiting.push(entry.path());
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}
