//! Where the workspace lies and which of its packages are guests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{cache, command};

/// The Wasm target that guests are built for.
pub(crate) const GUEST_TARGET: &str = "wasm32-wasip2";

pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target_dir: PathBuf,
    pub(crate) cache: PathBuf,
    packages: Vec<Package>,
}

/// A member of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// What the compiled component is called, for a guest: dashes of a library become underscores.
    pub(crate) artefact: String,
    pub(crate) kind: Kind,
    /// Whether it stands in `default-members`, which is what `cargo xtask test` covers.
    pub(crate) tested: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs here: host crates, SDKs, tools.
    Native,
    /// Runs in the host, for its users to read.
    Example,
    /// Runs in the host, for its tests.
    Fixture,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let metadata = metadata(&["--no-deps"])?;
        let path = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).with_context(|| format!("cargo metadata has no `{key}`"))
        };
        let root = path("workspace_root")?;
        let target_dir = path("target_directory")?;
        let packages = metadata["packages"].as_array().context("cargo metadata has no `packages`")?;
        let tested =
            metadata["workspace_default_members"].as_array().context("cargo metadata has no default members")?;
        let packages = packages.iter().filter_map(|package| Package::read(package, &root, tested)).collect();
        Ok(Self { root, target_dir, cache: cache::directory()?, packages })
    }

    /// Where finished components lie, whatever the target directory: binding files name this path.
    pub(crate) fn guests_dir(&self) -> PathBuf {
        self.root.join("target").join(GUEST_TARGET).join("release")
    }

    /// Builds and names the `host` program.
    pub(crate) fn host(&self) -> Result<PathBuf> {
        self.program("host")
    }

    /// Builds a program in release mode and names it. Cargo itself knows whether anything is to do. The selection of
    /// packages is the same for every program: another one would compile the dependencies anew with other features.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let selection = ["--package", "host-cli", "--package", "host-bench", "--bin", name];
        command::run(self.cargo().args(["build", "--release"]).args(selection))?;
        Ok(self.target_dir.join("release").join(name))
    }

    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    pub(crate) fn guests(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.kind != Kind::Native)
    }

    /// `cargo` at the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(cargo_program());
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target_dir);
        cargo
    }
}

impl Package {
    fn read(package: &Value, root: &Path, tested: &[Value]) -> Option<Self> {
        let name = package["name"].as_str()?;
        let manifest = Path::new(package["manifest_path"].as_str()?).strip_prefix(root).ok()?;
        let kind = if manifest.starts_with("examples") {
            Kind::Example
        } else if manifest.starts_with("tests/guests") {
            Kind::Fixture
        } else {
            Kind::Native
        };
        let component = package["targets"].as_array()?.iter().find(|target| {
            let has = |kind: &str| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|each| each == kind));
            has("cdylib") || has("bin")
        });
        let artefact = match component {
            Some(target) if target["kind"][0] == "bin" => target["name"].as_str()?.to_owned(),
            Some(target) => target["name"].as_str()?.replace('-', "_"),
            None if kind == Kind::Native => String::new(),
            None => return None,
        };
        Some(Self { name: name.to_owned(), artefact, kind, tested: tested.contains(&package["id"]) })
    }
}

/// `cargo metadata`, parsed.
pub(crate) fn metadata(arguments: &[&str]) -> Result<Value> {
    let mut cargo = Command::new(cargo_program());
    // From the root: asked inside a member, cargo names that member alone as the default.
    // Clones that share a target directory also share this program: the clone that runs it counts, not the one that
    // compiled it.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&package).join("..");
    cargo.args(["metadata", "--format-version", "1"]).args(arguments).current_dir(root);
    serde_json::from_str(&command::output(&mut cargo)?).context("cargo metadata printed no JSON")
}

/// The cargo that runs this task, so that a `+toolchain` on the command line holds for everything below.
pub(crate) fn cargo_program() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
