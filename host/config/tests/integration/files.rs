//! Files that are not what they should be, and what a worker is told it lacks.

use std::path::Path;

use host_config::{Faults, LoadOptions, Missing, Project, load};

const WORKER: &str = "name = \"a\"\nmain = \"hello.wasm\"\n";

fn scratch() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hello.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    directory
}

fn load_here(directory: &Path, file: &str, text: impl AsRef<[u8]>) -> Result<Project, Faults> {
    std::fs::write(directory.join(file), text).unwrap();
    load(&LoadOptions { directory: directory.to_owned(), files: vec![file.into()], ..LoadOptions::default() })
}

#[test]
fn a_file_over_a_mebibyte_is_refused_before_it_is_parsed() {
    let scratch = scratch();
    let mut text = format!("{WORKER}# ");
    text.push_str(&"x".repeat((1 << 20) - text.len()));
    assert!(load_here(scratch.path(), "wrangler.toml", &text).is_ok());
    text.push('x');
    let faults = load_here(scratch.path(), "wrangler.toml", &text).unwrap_err();
    assert_eq!(faults.0.len(), 1);
    assert!(faults.0[0].message.contains("larger than 1024 KiB"), "{faults}");
}

#[test]
fn large_hostile_files_end_in_a_bounded_list_of_faults() {
    // Work that grows with the square of this would be noticed; the largest file allowed is four times as large.
    const SIZE: usize = 1 << 18;
    let scratch = scratch();
    let repeat = |line: &dyn Fn(usize) -> String, head: &str| -> String {
        let mut text = head.to_owned();
        for index in 0.. {
            let line = line(index);
            if text.len() + line.len() > SIZE {
                break;
            }
            text.push_str(&line);
        }
        text
    };
    let files = [
        repeat(&|index| format!("unknown{index} = 1\n"), WORKER),
        repeat(&|index| format!("k = {index}\n"), WORKER),
        repeat(&|_| "a = \n".into(), WORKER),
        repeat(&|index| format!("a{index} = \"a{}\"\n", index + 1), &format!("{WORKER}[ai.aliases]\n")),
        repeat(&|_| "[[kv_namespaces]]\nbinding = \"KV\"\n".into(), WORKER),
        repeat(&|_| "[[workers]]\n".into(), ""),
        repeat(&|index| format!("[env.e{index}]\nx = 1\n"), WORKER),
        repeat(&|_| "[".into(), "a = "),
        repeat(&|_| "{a=".into(), "a = "),
        repeat(&|_| "a.".into(), ""),
    ];
    for text in &files {
        let faults = load_here(scratch.path(), "wrangler.toml", text).unwrap_err();
        assert!((1..=102).contains(&faults.0.len()), "{} faults", faults.0.len());
    }
    let json = [
        repeat(&|_| "[".into(), "{\"a\":"),
        repeat(&|_| "{\"a\":".into(), ""),
        repeat(&|index| format!("\"k{index}\":1,"), "{") + "}",
        repeat(&|_| "\"k\":1,".into(), "{") + "}",
    ];
    for text in &json {
        let faults = load_here(scratch.path(), "wrangler.json", text).unwrap_err();
        assert!((1..=102).contains(&faults.0.len()), "{} faults", faults.0.len());
    }
}

#[test]
fn dotted_keys_nested_in_inline_tables_do_not_overflow_the_stack() {
    let scratch = scratch();
    let path = vec!["k"; 79].join(".");
    let text = format!("{WORKER}[vars]\n{}1{}\n", format!("{path} = {{ ").repeat(70) + "k = ", " }".repeat(70));
    let faults = load_here(scratch.path(), "wrangler.toml", text).unwrap_err();
    assert!(faults.to_string().contains("nested deeper"), "{faults}");
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_opened() {
    let scratch = scratch();
    let link = scratch.path().join("wrangler.toml");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    let options = LoadOptions { directory: scratch.path().to_owned(), ..LoadOptions::default() };
    let faults = load(&options).unwrap_err();
    assert!(faults.0[0].message.contains("not a file"), "{faults}");
}

#[test]
fn a_worker_is_told_the_lines_of_its_own_file() {
    let scratch = scratch();
    let entry = "[[workers]]\nname = \"a\"\nmain = \"hello.wasm\"\n";
    let listed = load_here(scratch.path(), "wrangler.toml", entry).unwrap();
    let lines = listed.worker("a").unwrap().explain_missing(Missing::Ai, "AI");
    assert_eq!(lines, "# wrangler.toml, in the entry of \"a\" in workers\n[workers.ai]\nbinding = \"AI\"");
    // The lines do what they say: added to the file, they make the binding.
    let granted = load_here(scratch.path(), "wrangler.toml", format!("{entry}\n{lines}\n")).unwrap();
    assert!(granted.worker("a").unwrap().bindings.contains_key("AI"));

    let json = "{ \"name\": \"a\", \"main\": \"hello.wasm\" }";
    let project = load_here(scratch.path(), "wrangler.json", json).unwrap();
    let worker = project.worker("a").unwrap();
    assert_eq!(worker.explain_missing(Missing::Ai, "AI"), "// wrangler.json\n\"ai\": { \"binding\": \"AI\" }");
    assert_eq!(worker.explain_missing(Missing::Secret, "TOKEN"), "# .dev.vars beside wrangler.json\nTOKEN=\"…\"");
}

#[test]
fn a_worker_is_told_the_lines_for_its_assets() {
    let scratch = scratch();
    std::fs::create_dir(scratch.path().join("public")).unwrap();
    let bare = load_here(scratch.path(), "wrangler.toml", WORKER).unwrap();
    let lines = bare.worker("a").unwrap().explain_missing(Missing::Assets, "ASSETS");
    assert_eq!(lines, "# wrangler.toml\n[assets]\ndirectory = \"./public\"\nbinding = \"ASSETS\"");
    let granted = load_here(scratch.path(), "wrangler.toml", format!("{WORKER}{lines}\n")).unwrap();
    assert_eq!(granted.worker("a").unwrap().bindings["ASSETS"], host_config::Binding::Assets);
    // Files that are there already lack only the name.
    let files =
        load_here(scratch.path(), "wrangler.toml", format!("{WORKER}[assets]\ndirectory = \"public\"\n")).unwrap();
    let lines = files.worker("a").unwrap().explain_missing(Missing::Assets, "ASSETS");
    assert_eq!(lines, "# wrangler.toml\n[assets]\nbinding = \"ASSETS\"");
    let lines = bare.worker("a").unwrap().explain_missing(Missing::Service, "AUTH");
    let granted = load_here(scratch.path(), "wrangler.toml", format!("{WORKER}{lines}\n")).unwrap();
    let service = host_config::Binding::Service { service: "…".into(), entrypoint: None };
    assert_eq!(granted.worker("a").unwrap().bindings["AUTH"], service);
}

#[test]
fn secrets_reach_the_worker_and_no_listing() {
    let scratch = scratch();
    std::fs::write(scratch.path().join(".dev.vars"), "TOKEN=\"hunter2\"\n").unwrap();
    let project = load_here(scratch.path(), "wrangler.toml", WORKER).unwrap();
    match &project.worker("a").unwrap().bindings["TOKEN"] {
        host_config::Binding::Secret(secret) => assert_eq!(secret.expose(), "hunter2"),
        other => panic!("{other:?}"),
    }
    assert!(!format!("{project:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&project).unwrap().contains("hunter2"));
    assert_eq!(project.files.len(), 2);
}
