//! Building guests: every package below `examples/` and `tests/guests/` becomes a component at one stable path.
//!
//! Binding files name `target/wasm32-wasip2/release/NAME.wasm`, which is where a plain `cargo build` would put an
//! example. Tests serve a package in each flavour listed in `tests/guests/guests.toml`, kept beside it as
//! `guest-NAME-FLAVOUR.wasm`. The packaged compiler and a moved target directory build elsewhere; their results are
//! copied to those paths.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace::{GUEST_TARGET, Kind, Workspace};
use crate::{cache, command};

/// In cargo's order of building: a package's last build is what a plain `NAME.wasm` is left as, and that is to be the
/// default flavour.
pub(crate) const FLAVOURS: [&str; 2] = ["p3", "p2"];

/// Smaller and faster guests; in the workspace's own profile these would slow down the build of the host.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
];

/// Which guests to build.
pub(crate) enum Wanted<'a> {
    /// Examples in their default flavour, and everything the tests serve.
    All,
    /// Examples in their default flavour.
    Examples,
    /// These packages in whatever they are built as otherwise.
    Named(&'a [String]),
}

impl Wanted<'_> {
    fn includes(&self, package: &str) -> bool {
        match self {
            Self::All | Self::Examples => true,
            Self::Named(names) => names.iter().any(|name| name == package),
        }
    }
}

/// `tests/guests/guests.toml`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Fixtures {
    guests: Vec<Fixture>,
}

/// What the tests serve under one name.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Fixture {
    name: String,
    package: String,
    flavours: Vec<String>,
}

/// One call of cargo, and what it leaves where.
struct Batch {
    flavour: Option<&'static str>,
    packages: Vec<String>,
    /// File that cargo writes → file that is wanted.
    results: Vec<(String, String)>,
}

/// What a warning in a guest does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lints {
    /// It is printed.
    Shown,
    /// It ends the build, as do clippy's.
    Denied,
}

/// Builds guests; cargo itself knows which are up to date.
pub(crate) fn build(
    workspace: &Workspace,
    toolchain: &Toolchain,
    wanted: &Wanted<'_>,
    lints: Lints,
    progress: &Progress,
) -> Result<()> {
    if lints == Lints::Denied && !toolchain.has_clippy() {
        progress.note("LEFT OUT: clippy's lints of guests: the packaged compiler has no clippy");
    }
    if let Wanted::Named(names) = wanted {
        for name in *names {
            if !workspace.guests().any(|guest| guest.name == *name) {
                let known = workspace.guests().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(", ");
                bail!("no guest is called `{name}`; there are: {known}");
            }
        }
    }
    let fixtures = match wanted {
        Wanted::Examples => Fixtures::default(),
        _ => fixtures(&workspace.root.join("tests/guests/guests.toml"))?,
    };
    for batch in batches(workspace, &fixtures, wanted) {
        let flavour = batch.flavour.map_or(String::new(), |flavour| format!(", flavour {flavour}"));
        progress.step(&format!("building guests for {GUEST_TARGET}{flavour}: {}", batch.packages.join(" ")));
        let (mut cargo, built) = toolchain.cargo(workspace);
        cargo.args(["build", "--release", "--target", GUEST_TARGET]).envs(PROFILE);
        if lints == Lints::Denied && toolchain.has_clippy() {
            command::lint_while_building(&mut cargo);
        }
        if let Some(flavour) = batch.flavour {
            cargo.args(["--no-default-features", "--features", flavour]);
        }
        for package in &batch.packages {
            cargo.args(["--package", package]);
        }
        command::run(&mut cargo)?;
        let stable = workspace.guests_dir();
        for (from, to) in &batch.results {
            publish(&built.join(from), &stable.join(to))?;
        }
    }
    Ok(())
}

fn fixtures(path: &Path) -> Result<Fixtures> {
    if !path.exists() {
        return Ok(Fixtures::default());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let fixtures: Fixtures = toml::from_str(&text).with_context(|| format!("{} is broken", path.display()))?;
    for Fixture { name, flavours, .. } in &fixtures.guests {
        if let Some(unknown) = flavours.iter().find(|flavour| !FLAVOURS.contains(&flavour.as_str())) {
            bail!("{}: `{name}` has the unknown flavour `{unknown}`; there are p2 and p3", path.display());
        }
    }
    Ok(fixtures)
}

/// One cargo call per flavour, because features of packages in one call are unified; then the examples as a user builds
/// them.
fn batches(workspace: &Workspace, fixtures: &Fixtures, wanted: &Wanted<'_>) -> Vec<Batch> {
    let artefact = |package: &str| {
        let found = workspace.guests().find(|guest| guest.name == package);
        format!("{}.wasm", found.map_or(package, |guest| guest.artefact.as_str()))
    };
    let mut batches = Vec::new();
    for flavour in FLAVOURS {
        let chosen: Vec<&Fixture> = fixtures
            .guests
            .iter()
            .filter(|fixture| fixture.flavours.iter().any(|each| each == flavour) && wanted.includes(&fixture.package))
            .collect();
        let packages = chosen.iter().map(|fixture| fixture.package.clone()).collect();
        let result =
            |fixture: &&Fixture| (artefact(&fixture.package), format!("guest-{}-{flavour}.wasm", fixture.name));
        batches.push(Batch { flavour: Some(flavour), packages, results: chosen.iter().map(result).collect() });
    }
    let examples = workspace.guests().filter(|guest| guest.kind == Kind::Example && wanted.includes(&guest.name));
    let packages: Vec<String> = examples.map(|guest| guest.name.clone()).collect();
    let results = packages.iter().map(|package| (artefact(package), artefact(package))).collect();
    batches.push(Batch { flavour: None, packages, results });
    batches.retain(|batch| !batch.packages.is_empty());
    batches
}

/// Makes a built component appear at its stable path, in one step, and checks that it is a component. What is there
/// already stays untouched, so that nobody compiles it anew.
fn publish(built: &Path, stable: &Path) -> Result<()> {
    let bytes = std::fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    // Layer 1 in the second half of the version field is what tells a component from a core module.
    if bytes.get(..8) != Some(b"\0asm\x0d\0\x01\0") {
        bail!("{} is no component: does its package have `crate-type = [\"cdylib\"]`?", built.display());
    }
    if built == stable || std::fs::read(stable).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let folder = stable.parent().context("a component lies in a folder")?;
    cache::create(folder)?;
    let temporary = tempfile::NamedTempFile::new_in(folder).context("cannot create a temporary file")?;
    std::fs::write(temporary.path(), &bytes).with_context(|| format!("cannot write beside {}", stable.display()))?;
    temporary.persist(stable).with_context(|| format!("cannot write {}", stable.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{fixtures, publish};

    #[test]
    fn only_components_are_published() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (built, stable) = (folder.path().join("a.wasm"), folder.path().join("stable/a.wasm"));
        std::fs::write(&built, b"\0asm\x01\0\0\0").expect("a core module");
        let error = publish(&built, &stable).expect_err("a core module is refused");
        assert!(error.to_string().contains("no component"), "{error}");
        assert!(!stable.exists());
        std::fs::write(&built, b"\0asm\x0d\0\x01\0rest").expect("a component");
        publish(&built, &stable).expect("a component is published");
        assert_eq!(std::fs::read(&stable).expect("the copy"), b"\0asm\x0d\0\x01\0rest");
    }

    #[test]
    fn unknown_flavours_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("guests.toml");
        let text = "[[guests]]\nname = \"a\"\npackage = \"guest-a\"\nflavours = [\"p2\", \"p9\"]\n";
        std::fs::write(&path, text).expect("a list");
        let error = fixtures(&path).err().expect("p9 is no flavour");
        assert!(error.to_string().contains("`p9`"), "{error}");
    }
}
