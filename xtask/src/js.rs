//! The JavaScript side: what makes workers in JavaScript runnable here, and the checks of the SDK for them.
//!
//! How the toolchain is made, kept and found again is the host's own business: a build of an example has it made, and
//! finds it made the next time. Here stands only that tests must not be the first to need it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Slot;
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The example that is built so that everything is there.
const EXAMPLE: &str = "examples/chat-ui/wrangler.toml";
/// Where projects in TypeScript lie.
const PROJECTS: [&str; 2] = ["examples", "templates"];

/// Has the program `host` make its toolchain for JavaScript workers.
pub(crate) fn toolchain(workspace: &Workspace, host: &Path, progress: &Progress) -> Result<()> {
    progress.step("the toolchain for JavaScript workers (about 400 MB and a minute where it is not present)");
    let mut build = Command::new(host);
    build.args(["build", "-c", EXAMPLE]).current_dir(&workspace.root);
    command::run(&mut build).context("cannot make JavaScript workers runnable; this needs Node.js 20 or newer and npm")
}

/// The npm packages that tests serve and run.
pub(crate) fn test_packages(workspace: &Workspace, progress: &Progress) -> Result<()> {
    packages(&workspace.root.join("guest-sdk/js"), "the SDK for JavaScript workers (about 420 MB)", progress)?;
    packages(&workspace.root.join("tests/js-clients"), "the client libraries that are tested (about 30 MB)", progress)
}

/// The checks of the SDK for JavaScript workers, and of the types of what is written in TypeScript.
pub(crate) fn sdk(workspace: &Workspace, progress: &Progress) -> Result<()> {
    let sdk = workspace.root.join("guest-sdk/js");
    progress.step("checking types: the SDK for JavaScript workers, and every project in TypeScript");
    let compiler = sdk.join("node_modules/typescript/bin/tsc");
    let tsc = || {
        let mut tsc = Command::new("node");
        tsc.arg(&compiler).current_dir(&sdk);
        tsc
    };
    command::run(tsc().arg("--noEmit"))?;
    for project in typed(workspace)? {
        if has_dependencies(&project) {
            let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
            let settings = with_packages(workspace, &project, folder.path())?;
            command::run(tsc().args(["--noEmit", "--project"]).arg(settings))?;
            continue;
        }
        // A project of a user has these packages to itself; here, all share those of the SDK.
        let types = ["--typeRoots", "node_modules", "--types", "@cloudflare/workers-types"];
        command::run(tsc().args(["--noEmit", "--project"]).arg(&project).args(types))?;
    }
    progress.step("running the tests of the SDK for JavaScript workers");
    command::run(npm(&sdk).args(["test", "--silent"]))
}

/// The folders of the projects in TypeScript.
fn typed(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut typed = Vec::new();
    for folder in PROJECTS.map(|folder| workspace.root.join(folder)) {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        typed.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.join("tsconfig.json").is_file()));
    }
    typed.sort();
    Ok(typed)
}

/// The settings of a project that are those of its own, with the packages that tests have in place of installed ones.
fn with_packages(workspace: &Workspace, project: &Path, folder: &Path) -> Result<PathBuf> {
    let types = workspace.root.join("guest-sdk/js/node_modules/@cloudflare/workers-types");
    let packages = workspace.root.join("tests/js-clients/node_modules/*");
    let settings = serde_json::json!({
        "extends": project.join("tsconfig.json"),
        "compilerOptions": { "types": [types], "paths": { "*": [packages] } },
        "include": [project.join("src")],
    });
    let file = folder.join("tsconfig.json");
    std::fs::write(&file, settings.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Whether a project's program needs packages beyond those of the SDK.
fn has_dependencies(project: &Path) -> bool {
    let manifest = std::fs::read(project.join("package.json")).unwrap_or_default();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    manifest["dependencies"].as_object().is_some_and(|dependencies| !dependencies.is_empty())
}

/// A folder's packages, those for its development included, exactly as its lock file has them.
fn packages(folder: &Path, whose: &str, progress: &Progress) -> Result<()> {
    let lock = folder.join("package-lock.json");
    let made_from = std::fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let slot = Slot::new(folder, "node_modules");
    if slot.is_complete(&made_from) {
        progress.done_before(&format!("npm packages of {whose}"));
        return Ok(());
    }
    progress.step(&format!("npm ci: packages of {whose}"));
    command::run(npm(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    slot.complete(&made_from)
}

fn npm(folder: &Path) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(folder);
    npm
}
