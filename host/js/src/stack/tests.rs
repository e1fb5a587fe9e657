use super::*;

/// A worker that esbuild bundled with `--bundle --format=esm --charset=utf8 --sourcemap` from the sources beside it.
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stack");

fn mapper() -> Mapper {
    let project = Path::new(PROJECT);
    Mapper::read(&project.join("out/worker.js.map"), project).unwrap()
}

fn decode(map: &str) -> Result<Mapper, String> {
    Mapper::decode(map.as_bytes(), Path::new("/p/.host/w"), Path::new("/p"))
}

#[test]
fn frames_of_a_stack_name_the_sources() {
    let stack =
        "RangeError: BigInt division by zero\ndivide@worker.js:5:5\nfetch@worker.js:13:32\nhandle@runtime.js:1:2\n";
    let expected = "RangeError: BigInt division by zero\ndivide@src/lib/divide.ts:4:20\nfetch@src/index.ts:11:32\n\
                    handle@runtime.js:1:2\n";
    assert_eq!(mapper().map_text(stack), expected);
}

#[test]
fn frames_of_evaluated_code_name_the_sources() {
    let stack = "divide@worker.js line 12 > eval:5:5\nasync*fetch@runtime.mjs line 2512 > eval:13:32";
    assert_eq!(mapper().map_text(stack), "divide@src/lib/divide.ts:4:20\nasync*fetch@src/index.ts:11:32");
    // What the script evaluates has no source.
    let inner = "@runtime.mjs line 2512 > eval line 25 > eval:5:5\n@runtime.mjs line 2 > eval line 3 > Function:5:5";
    assert_eq!(mapper().map_text(inner), inner);
}

#[test]
fn positions_between_two_marks_belong_to_the_first() {
    assert_eq!(mapper().map_text("(worker.js:5:6)"), "(src/lib/divide.ts:4:20)");
}

#[test]
fn what_is_no_position_stays() {
    let mapper = mapper();
    for text in [
        "",
        "worker.js",
        "worker.js:",
        "worker.js:5",
        "worker.js:5:",
        "worker.js:5:x",
        "worker.js:-5:5",
        "worker.js:0:1",
        "worker.js:1:0",
        "worker.js:99999999999999999999:1",
        "worker.js:4294967295:4294967295",
        "worker.js:1:1",
        "worker.js line 12",
        "worker.js line 12 > eval",
        "worker.js line 12 > Function:5:5",
        "my-worker.js:5:5",
        "a/worker.js:5:5",
        "éworker.js:5:5",
        "worker.jsworker.js:5:5",
        "runtime.mjs:5:5",
        "runtime.mjs line 5:5",
        "worker.js😀:5:5",
    ] {
        assert_eq!(mapper.map_text(text), text);
    }
}

#[test]
fn the_work_on_a_text_has_an_end() {
    let text = "worker.js:5:5 ".repeat(LOOKED_UP + 5);
    let mapped = mapper().map_text(&text);
    assert_eq!(mapped.matches("divide.ts").count(), LOOKED_UP);
    assert_eq!(mapped.matches("worker.js:5:5").count(), 5);
}

#[test]
fn sources_are_named_from_the_project() {
    let names = [
        ("../../src/a.ts", "src/a.ts"),
        ("../../node_modules/x/./a.js", "node_modules/x/a.js"),
        ("/p/src/a.ts", "src/a.ts"),
        ("file:///p/src/a.ts", "src/a.ts"),
        ("../../../../../q/a.ts", "/q/a.ts"),
        ("node:buffer", "node:buffer"),
        ("polyfill:x/y", "polyfill:x/y"),
        ("a\u{1b}[31m\n.ts", ".host/w/a␛[31m␊.ts"),
        ("", ""),
    ];
    for (source, expected) in names {
        assert_eq!(named(source, Path::new("/p/.host/w"), Path::new("/p")), expected, "{source}");
    }
}

#[test]
fn a_hostile_map_is_an_error_or_harmless() {
    let map = |mappings: &str| format!(r#"{{"version":3,"sources":["a.ts"],"names":[],"mappings":{mappings:?}}}"#);
    for mappings in ["gggggggggggggggggggggggB", "AAAA,+++++++++++++B", "ACAA", "!!!!", "AA", "AAAAAA"] {
        assert!(decode(&map(mappings)).is_err(), "{mappings}");
    }
    assert!(decode(&map(&";".repeat(POSITIONS + 1))).is_err());
    for text in ["", "{", "[]", "null", r#"{"version":3,"sections":[]}"#] {
        assert!(decode(text).is_err(), "{text}");
    }
    let root = "r".repeat(LONGEST_ROOT + 1);
    assert!(decode(&format!(r#"{{"version":3,"sourceRoot":{root:?},"sources":["a"],"mappings":""}}"#)).is_err());
    // Negative and sourceless positions decode, and lead nowhere or to some number.
    for mappings in ["DAAA", "AADA", "A", "AAAD"] {
        let mapped = decode(&map(mappings)).unwrap().map_text("worker.js:1:1");
        assert!(mapped.starts_with("worker.js:1:1") || mapped.starts_with(".host/w/a.ts:"), "{mappings}: {mapped}");
    }
}

#[test]
fn a_map_that_is_not_there_says_so() {
    let error = Mapper::read(Path::new("/nonexistent/worker.js.map"), Path::new("/")).unwrap_err();
    assert!(matches!(error, MapError::Read { .. }), "{error}");
}
