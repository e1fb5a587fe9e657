//! llama.cpp, compiled once for this machine's processor and kept in the cache directory.
//!
//! Its sources come with the source distribution of `llama-cpp-python` (MIT), which has the whole tree under `vendor/`;
//! nothing of the Python package itself is built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bench::server::Server;
use crate::cache::{self, Slot};
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The peer's release.
const PACKAGE: &str = "llama-cpp-python";
const RELEASE: &str = "0.3.36";
/// What it weighs, for the message.
const MB: u32 = 77;
const BUILD_TOOLS: [&str; 2] = ["cmake==4.4.5", "ninja==1.13.2"];
/// Its own defaults but for what the benchmark does not use. Optimizing for the processor at hand is one of them.
const CMAKE: [&str; 8] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
];
const SERVER: &str = "llama-server";
const QUANTIZE: &str = "llama-quantize";

pub(in crate::bench) struct Peer {
    server: PathBuf,
    quantize: PathBuf,
}

impl Peer {
    /// A server that is there already.
    pub(in crate::bench) fn at(server: &Path) -> Result<Self> {
        let server = std::path::absolute(server)?;
        let quantize = server.with_file_name(QUANTIZE);
        for program in [&server, &quantize] {
            if !program.exists() {
                bail!("{} does not exist", program.display());
            }
        }
        Ok(Self { server, quantize })
    }

    pub(in crate::bench) fn built(workspace: &Workspace, progress: &Progress) -> Result<Self> {
        let slot = Slot::new(&workspace.cache, "bench/llama-server");
        let _lock = slot.lock(progress)?;
        let made_from = format!("{PACKAGE}=={RELEASE} {}", CMAKE.join(" "));
        if slot.is_complete(&made_from) {
            progress.done_before(&format!("llama.cpp of {PACKAGE} {RELEASE} in {}", slot.path.display()));
        } else {
            progress.step(&format!(
                "building llama.cpp of {PACKAGE} {RELEASE} ({MB} MB) in {} (ten minutes of CPU or more, once)",
                slot.path.display()
            ));
            slot.start_over()?;
            build(&slot.path).context("cannot build llama.cpp; it needs a C++ compiler and Python with venv")?;
            slot.complete(&made_from)?;
        }
        Self::at(&slot.path.join(SERVER))
    }

    /// A server for `streams` requests at once, each with `context` tokens.
    pub(in crate::bench) fn serve(
        &self,
        model: &Path,
        threads: usize,
        streams: usize,
        context: usize,
    ) -> Result<Server> {
        let mut command = Command::new(&self.server);
        command.arg("--model").arg(model).args(["--host", "127.0.0.1", "--port", "0"]);
        command.args(["--threads", &threads.to_string(), "--threads-batch", &threads.to_string()]);
        command.args(["--parallel", &streams.to_string(), "--ctx-size", &(streams * context).to_string()]);
        // Kept prompts would count as its memory, and nothing here comes back to one that has left its slot.
        command.args(["--cache-ram", "0", "--offline"]);
        Server::start(&mut command, "listening on ")
    }

    /// Writes `model` in another quantization, by llama.cpp's own recipe for it.
    pub(in crate::bench) fn quantize(&self, model: &Path, output: &Path, recipe: &str) -> Result<()> {
        command::run(Command::new(&self.quantize).arg("--allow-requantize").arg(model).arg(output).arg(recipe))
    }
}

fn build(folder: &Path) -> Result<()> {
    let work = folder.join("build");
    let (environment, source) = (work.join("python"), work.join("source"));
    cache::create(&source)?;
    command::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))
        .context("cannot make a Python environment (on Debian: install python3-venv)")?;
    let python = environment.join("bin/python3");
    let mut install = Command::new(&python);
    command::run(install.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:"]).args(BUILD_TOOLS))?;
    let mut download = Command::new(&python);
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]);
    command::run(download.arg(format!("{PACKAGE}=={RELEASE}")).arg("--dest").arg(&work))?;
    let archive = std::fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with(".tar.gz"))
        .context("pip downloaded no .tar.gz")?;
    command::run(Command::new("tar").args(["xzf"]).arg(archive).args(["--strip-components", "1", "-C"]).arg(&source))?;
    let (cmake, objects) = (environment.join("bin/cmake"), work.join("objects"));
    let mut configure = Command::new(&cmake);
    configure.args(["-G", "Ninja"]).args(CMAKE).arg("-S").arg(source.join("vendor/llama.cpp")).arg("-B").arg(&objects);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", environment.join("bin/ninja").display()));
    command::run(&mut configure)?;
    let mut compile = Command::new(&cmake);
    command::run(compile.arg("--build").arg(&objects).args(["--target", SERVER, QUANTIZE]))?;
    for program in [SERVER, QUANTIZE] {
        let built = objects.join("bin").join(program);
        std::fs::rename(&built, folder.join(program)).with_context(|| format!("cannot move {}", built.display()))?;
    }
    cache::remove(&work)
}
