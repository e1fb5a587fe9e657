use super::*;

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-bundle.mjs");

struct Fixture {
    directory: tempfile::TempDir,
    toolchain: Toolchain,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let toolchain = directory.path().join("toolchain");
        fs::create_dir_all(toolchain.join("sdk")).unwrap();
        fs::copy(FAKE, toolchain.join("sdk/bundle.mjs")).unwrap();
        Self { toolchain: Toolchain::of_test(&toolchain, "0123456789abcdef"), directory }
    }

    fn bundler(&self) -> Bundler {
        Bundler::start_with(&self.toolchain, Duration::from_secs(60), 1 << 20).unwrap()
    }

    /// A request for an entry whose name says how the bundler behaves.
    fn request(&self, behaviour: &str) -> BundleRequest {
        let entry = self.directory.path().join(behaviour).with_extension("ts");
        fs::write(&entry, "source").unwrap();
        let flags = vec!["nodejs_compat".to_owned()];
        BundleRequest { entry, outdir: self.directory.path().join("out"), flags, minify: true }
    }

    fn started(&self) -> usize {
        fs::read_to_string(self.directory.path().join("toolchain/sdk/started")).unwrap().len()
    }
}

#[test]
fn a_bundle_comes_back() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    for behaviour in ["good", "noisy", "good"] {
        let request = fixture.request(behaviour);
        let bundle = bundler.bundle(&request).unwrap();
        assert_eq!(bundle.script, request.outdir.join("worker.js"));
        assert_eq!(bundle.map, request.outdir.join("worker.js.map"));
        assert_eq!(bundle.inputs, [request.entry]);
        let script = fs::read_to_string(&bundle.script).unwrap();
        assert_eq!(script, "// nodejs_compat true\nsource");
        assert_eq!(bundle.bytes, script.len() as u64);
    }
    assert_eq!(fixture.started(), 1);
}

#[test]
fn faults_of_sources_are_printed_like_a_compilers() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    let error = bundler.bundle(&fixture.request("faulty")).unwrap_err();
    let expected = "src/index.ts:3:15: error: Could not resolve \"./y\"\n    import x from './y'\n                  ^~~~~\n\n\
                    error: and more\n  note: why";
    assert_eq!(error.to_string(), expected);
    bundler.bundle(&fixture.request("good")).unwrap();
    assert_eq!(fixture.started(), 1, "a fault of a source is none of the bundler");
}

#[test]
fn a_bundler_that_ends_is_an_error_once() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    let error = bundler.bundle(&fixture.request("dies")).unwrap_err();
    let BundleError::Ended(why) = &error else { panic!("{error}") };
    assert_eq!((why.outcome.as_str(), why.stderr.as_str()), ("ended: exit status: 7", "out of memory"));
    bundler.bundle(&fixture.request("good")).unwrap();
    assert_eq!(fixture.started(), 2);
}

#[test]
fn a_bundler_that_ended_between_requests_is_none() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    bundler.bundle(&fixture.request("dies-later")).unwrap();
    while bundler.process.as_mut().unwrap().is_running() {
        std::thread::sleep(Duration::from_millis(5));
    }
    bundler.bundle(&fixture.request("good")).unwrap();
    assert_eq!(fixture.started(), 2);
}

#[test]
fn a_bundler_that_says_nothing_is_ended() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    bundler.bundle(&fixture.request("good")).unwrap();
    bundler.patience = Duration::from_millis(100);
    let error = bundler.bundle(&fixture.request("silent")).unwrap_err();
    assert!(matches!(error, BundleError::Silent(_)), "{error}");
    bundler.patience = Duration::from_secs(60);
    bundler.bundle(&fixture.request("good")).unwrap();
    assert_eq!(fixture.started(), 2);
}

#[test]
fn a_line_without_an_end_is_not_kept() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    let error = bundler.bundle(&fixture.request("huge")).unwrap_err();
    assert!(matches!(error, BundleError::Protocol(_)), "{error}");
    bundler.bundle(&fixture.request("good")).unwrap();
}

#[test]
fn an_answer_that_cannot_be_true_is_none() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    for behaviour in ["wordless", "mistyped", "elsewhere", "scriptless", "relative"] {
        let error = bundler.bundle(&fixture.request(behaviour)).unwrap_err();
        assert!(matches!(error, BundleError::Protocol(_)), "{behaviour}: {error}");
    }
}

#[test]
fn a_bundler_that_takes_no_more_requests_has_ended() {
    let fixture = Fixture::new();
    let error = fixture.bundler().bundle(&fixture.request("closes-stdout")).unwrap_err();
    assert!(matches!(error, BundleError::Ended(_)), "{error}");
}

#[test]
fn a_request_that_does_not_fit_is_refused() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    let request = BundleRequest { flags: vec!["x".repeat(LONGEST_REQUEST)], ..fixture.request("good") };
    let error = bundler.bundle(&request).unwrap_err();
    assert!(matches!(error, BundleError::Request(_)), "{error}");
    bundler.bundle(&fixture.request("good")).unwrap();
    assert_eq!(fixture.started(), 1);
}

#[test]
fn a_bundler_ends_with_its_owner() {
    let fixture = Fixture::new();
    let mut bundler = fixture.bundler();
    bundler.bundle(&fixture.request("good")).unwrap();
    let lines = {
        let process = bundler.process.as_mut().unwrap();
        std::mem::replace(&mut process.lines, std::sync::mpsc::sync_channel(1).1)
    };
    drop(bundler);
    assert!(lines.recv().is_err(), "its stdout is closed");
}
