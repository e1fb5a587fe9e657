use std::fs::{File, FileTimes};

use super::*;

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-bundle.mjs");
const HASH: &str = "0123456789abcdef";

/// A project in `project/src`, whose manifest the tests make older than it is: what was written a moment ago is never
/// taken for settled.
struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("toolchain/sdk")).unwrap();
        fs::copy(FAKE, directory.path().join("toolchain/sdk/bundle.mjs")).unwrap();
        let project = Self { directory };
        project.write("src/index.ts", "export default {}\nuse other.ts\n");
        project.write("src/other.ts", "export {}\n");
        project.write("package.json", "{}");
        project.settle();
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("project").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Waits until the file system's clock can tell what is written from now on from what was written before.
    fn settle(&self) {
        let probe = self.path("probe.txt");
        let start = SystemTime::now();
        loop {
            fs::write(&probe, "").unwrap();
            let written = fs::metadata(&probe).unwrap().modified().unwrap();
            if written.duration_since(start).is_ok_and(|since| since > Duration::from_millis(80)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn request(&self) -> BuildRequest {
        BuildRequest { entry: self.path("src/index.ts"), outdir: self.path("out"), flags: vec![], minify: false }
    }

    /// Builds as a new process would.
    fn build(&self, request: &BuildRequest) -> Built {
        self.build_with(HASH, request)
    }

    fn build_with(&self, hash: &str, request: &BuildRequest) -> Built {
        let toolchain = Toolchain::of_test(&self.directory.path().join("toolchain"), hash);
        Builder::new(&toolchain).build(request).unwrap()
    }

    fn started(&self) -> usize {
        fs::read_to_string(self.directory.path().join("toolchain/sdk/started")).map_or(0, |text| text.len())
    }

    /// That a change makes the next build run, and the one after that not.
    #[track_caller]
    fn matters(&self, what: &str, change: impl FnOnce()) {
        let request = self.request();
        assert!(self.build(&request).cached, "before {what}");
        change();
        self.settle();
        assert!(!self.build(&request).cached, "{what} makes no difference");
        assert!(self.build(&request).cached, "after {what}");
    }
}

#[test]
fn nothing_is_started_where_nothing_has_changed() {
    let project = Project::new();
    let first = project.build(&project.request());
    assert!(!first.cached);
    assert_eq!(first.inputs, [project.path("src/index.ts"), project.path("src/other.ts")]);
    let second = project.build(&project.request());
    assert!(second.cached);
    assert_eq!((&second.script, &second.map, &second.inputs), (&first.script, &first.map, &first.inputs));
    assert_eq!(second.bytes, first.bytes);
    assert_eq!(project.started(), 1);
}

#[test]
fn a_builder_keeps_its_bundler() {
    let project = Project::new();
    let toolchain = Toolchain::of_test(&project.directory.path().join("toolchain"), HASH);
    let mut builder = Builder::new(&toolchain);
    for flags in [vec![], vec!["nodejs_compat".to_owned()]] {
        assert!(!builder.build(&BuildRequest { flags, ..project.request() }).unwrap().cached);
    }
    assert_eq!(project.started(), 1);
}

#[test]
fn whatever_could_change_the_script_is_a_reason() {
    let project = Project::new();
    project.build(&project.request());
    let appears = |name: &'static str| project.matters(name, || project.write(name, "{}"));
    project.matters("an edit", || project.write("src/other.ts", "export { a }\n"));
    project.matters("an edit of the same length", || project.write("src/other.ts", "export { b }\n"));
    project.matters("a missing package.json", || {
        fs::remove_file(project.path("package.json")).unwrap();
    });
    for name in ["package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "node_modules/.package-lock.json"] {
        appears(name);
    }
    appears("src/package.json");
    appears("src/other.mts");
    project
        .matters("a configuration", || project.write("tsconfig.json", r#"{"extends": "./config/base" /* mine */,}"#));
    appears("config/base.json");
    project.matters("a base", || project.write("config/base.json", r#"{ "compilerOptions": {} }"#));
    project.matters("a damaged script", || project.write("out/worker.js", "steal()"));
    project.matters("a missing map", || fs::remove_file(project.path("out/worker.js.map")).unwrap());
    project.matters("a damaged manifest", || project.write("out/worker.manifest.json", "{"));
}

#[test]
fn a_change_that_keeps_the_time_of_the_content_is_seen() {
    let project = Project::new();
    let path = project.path("src/other.ts");
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(499_162_500));
    let write = |text: &str| {
        project.write("src/other.ts", text);
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    };
    write("export { a }\n");
    project.settle();
    project.build(&project.request());
    project.matters("an edit with the same time", || write("export { b }\n"));
}

#[test]
fn a_file_that_was_only_touched_makes_no_difference() {
    let project = Project::new();
    project.build(&project.request());
    let manifest = || fs::read_to_string(project.path("out/worker.manifest.json")).unwrap();
    let before = manifest();
    project.write("src/other.ts", "export {}\n");
    project.settle();
    assert!(project.build(&project.request()).cached);
    assert_ne!(manifest(), before, "the new times are recorded");
    assert!(project.build(&project.request()).cached);
    assert_eq!(project.started(), 1);
}

#[test]
fn what_was_edited_while_it_was_read_is_not_trusted() {
    let project = Project::new();
    project.write("src/other.ts", "export { later }\n");
    let recorder = Recorder::start(SystemTime::now());
    let mut inputs = recorder.record(&[project.path("src/other.ts")], &Default::default());
    assert_eq!(input::hold(&mut inputs), None);
    let recorder = Recorder::start(SystemTime::now() + Duration::from_secs(60));
    let mut inputs = recorder.record(&[project.path("src/other.ts")], &Default::default());
    assert_eq!(input::hold(&mut inputs), Some(false));
}

#[test]
fn another_request_is_another_script() {
    let project = Project::new();
    project.build(&project.request());
    let flags = BuildRequest { flags: vec!["nodejs_compat".to_owned()], ..project.request() };
    let minified = BuildRequest { minify: true, ..project.request() };
    for request in [&flags, &minified] {
        assert!(!project.build(request).cached);
        assert!(project.build(request).cached);
    }
    assert!(!project.build_with("fedcba9876543210", &minified).cached);
}

#[test]
fn warnings_are_told_again() {
    let project = Project::new();
    project.write("src/index.ts", "odd\n");
    project.settle();
    let first = project.build(&project.request());
    let second = project.build(&project.request());
    assert!(second.cached);
    assert_eq!(second.warnings, first.warnings);
    assert_eq!(second.warnings.first().unwrap().to_string(), "a.ts:1:1: warning: odd\n    x\n    ^");
}

#[test]
fn a_failed_build_leaves_no_record() {
    let project = Project::new();
    project.build(&project.request());
    project.write("src/faulty.ts", "x");
    let request = BuildRequest { entry: project.path("src/faulty.ts"), ..project.request() };
    let toolchain = Toolchain::of_test(&project.directory.path().join("toolchain"), HASH);
    let error = Builder::new(&toolchain).build(&request).unwrap_err();
    assert!(matches!(error, BuildError::Bundle(BundleError::Source(_))), "{error}");
    assert!(!project.path("out/worker.manifest.json").exists());
}
