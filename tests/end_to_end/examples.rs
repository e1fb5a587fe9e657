//! The examples, served from the root's binding file with the real small models.

use serde_json::{Value, json};

use crate::harness::{Host, component, workspace};

/// The root's binding file, with the components where this build put them and the sources where they are.
pub(crate) fn examples() -> Host {
    examples_with("")
}

/// [`examples`] with a tiny CLIP of random weights under the name of the model that `examples/image-search` asks for.
pub(crate) fn examples_with_clip() -> Host {
    let folder = workspace().join("host/inference/tests/golden/vision/clip").display().to_string();
    examples_with(&format!("[[ai.models]]\nname = \"clip-vit-large-patch14\"\npath = {folder:?}\n"))
}

fn examples_with(more: &str) -> Host {
    Host::serve(&format!("{}\n{more}", binding_file()))
}

/// The root's binding file, changed so that it can be served from any folder.
pub(crate) fn binding_file() -> String {
    let text = std::fs::read_to_string(workspace().join("wrangler-like.toml")).unwrap();
    let folder = component("chat.wasm").parent().unwrap().display().to_string();
    let sources = workspace().join("examples").display().to_string();
    text.replace("target/wasm32-wasip2/release", &folder).replace("\"examples/", &format!("\"{sources}/"))
}

#[test]
fn chat_answers_whole_and_in_a_stream() {
    let host = examples();
    let ask = |path: &str| host.send_to("chat.localhost", "GET", path, &[], b"").read();
    let whole = ask("/?q=What+is+the+capital+of+France%3F");
    assert_eq!(whole.status, 200, "{}", whole.text());
    let answer = whole.json();
    assert!(answer["response"].as_str().is_some_and(|text| !text.trim().is_empty()), "{answer}");
    let usage = &answer["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("no {key} in {usage}"));
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert!(count("prompt_tokens") > 10 && count("completion_tokens") > 0, "{usage}");

    let streamed = ask("/?q=What+is+the+capital+of+France%3F&stream");
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let text = streamed.text();
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert!(events.len() > 2 && events.iter().all(|event| event.starts_with("data: ")), "{text}");
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    let usage: Value = serde_json::from_str(&events[events.len() - 2]["data: ".len()..]).unwrap();
    assert_eq!(usage["response"], json!(""));
    assert!(usage["usage"]["total_tokens"].as_u64() > Some(0), "{usage}");

    assert_eq!(ask("/").status, 400);
}

#[test]
fn search_ranks_by_meaning() {
    let host = examples();
    let ask = |path: &str| host.send_to("search.localhost", "GET", path, &[], b"").read();
    for (question, word) in [("how+do+plants+make+energy", "plants"), ("why+does+the+ground+shake", "Earthquakes")] {
        let reply = ask(&format!("/?q={question}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let results = reply.json();
        let results = results.as_array().unwrap();
        assert_eq!(results.len(), 5);
        let scores: Vec<f64> = results.iter().map(|result| result["score"].as_f64().unwrap()).collect();
        assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");
        let best = results[0]["text"].as_str().unwrap();
        assert!(best.contains(word), "{question}: {best}");
    }
}

#[test]
fn all_of_them_are_served_without_a_warning() {
    let host = examples();
    for worker in ["chat", "search", "hello", "chat-ui", "rag", "fallback", "extract", "draw", "transcribe"] {
        assert!(host.log().contains(worker), "{worker}");
    }
    assert!(!host.log().to_lowercase().contains("warn"), "{}", host.log());
}

#[test]
fn fallback_is_answered_by_a_model_of_this_machine() {
    let host = examples();
    let ask = || host.send_to("fallback.localhost", "GET", "/?q=Why+is+the+sky+blue", &[], b"").read();
    let first = ask();
    assert_eq!(first.status, 200, "{}", first.text());
    let (first, again) = (first.json(), ask().json());
    assert_eq!((&first["by"], &first["cached"]), (&json!("local"), &json!(false)), "{first}");
    assert_eq!((&again["answer"], &again["cached"]), (&first["answer"], &json!(true)), "{again}");
}

#[test]
fn hello_says_hello() {
    let host = examples();
    let reply = host.send_to("hello.localhost", "GET", "/", &[], b"").read();
    assert_eq!((reply.status, reply.text().as_str()), (200, "Hello, world!\n"));
}

#[test]
fn the_chat_page_is_served_from_its_files() {
    let host = examples();
    let get =
        |path: &str, headers: &[(&str, &str)]| host.send_to("chat-ui.localhost", "GET", path, headers, b"").read();
    let page = get("/", &[]);
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.headers);
    assert!(page.text().contains("<title>"), "{}", page.text());
    let etag = page.header("etag").unwrap_or_else(|| panic!("no etag in {:?}", page.headers));
    let again = get("/", &[("if-none-match", etag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));

    for (path, kind) in [("/app.js", "text/javascript"), ("/style.css", "text/css")] {
        let file = get(path, &[]);
        let found = file.header("content-type").unwrap_or_default();
        assert!(file.status == 200 && found.starts_with(kind), "{path}: {} {found}", file.status);
        let source = std::fs::read(workspace().join("examples/chat-ui/public").join(&path[1..])).unwrap();
        assert_eq!(file.body, source, "{path}");
    }
    for path in ["/nothing", "/../wrangler.toml", "/%2e%2e/src/index.ts"] {
        assert_eq!(get(path, &[]).status, 404, "{path}");
    }
}

#[test]
fn the_chat_page_is_answered_in_a_stream() {
    let host = examples();
    let post = |body: &str| host.send_to("chat-ui.localhost", "POST", "/api/chat", &[], body.as_bytes()).read();
    let reply = post(r#"{"messages":[{"role":"user","content":"What is the capital of France?"}]}"#);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
    let text = reply.text();
    assert!(reply.complete && text.ends_with("data: [DONE]\n\n"), "{text}");
    let pieces = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let pieces: Vec<Value> =
        pieces.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect();
    let answer: String = pieces.iter().filter_map(|piece| piece["response"].as_str()).collect();
    assert!(pieces.len() > 2 && !answer.trim().is_empty(), "{text}");

    for body in ["{", "{}", r#"{"messages":[]}"#, r#"{"messages":[{"role":"robot","content":"x"}]}"#] {
        let refused = post(body);
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.json()["error"].is_string(), "{body}");
    }
    assert_eq!(host.send_to("chat-ui.localhost", "GET", "/api/chat", &[], b"").read().status, 405);
}

#[test]
fn extract_answers_in_the_shape_of_its_schema() {
    let host = examples();
    let post = |text: &str| host.send_to("extract.localhost", "POST", "/", &[], text.as_bytes()).read();
    let reply = post("Lunch with Ada and Grace at the harbour on Friday at one");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let event = reply.json();
    let keys: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["title", "place", "weekday", "hour", "people"], "{event}");
    assert!(event["hour"].as_u64().is_some_and(|hour| hour < 24) && event["people"].is_array(), "{event}");
    assert_eq!(post(" ").status, 400);
    assert_eq!(host.send_to("extract.localhost", "GET", "/", &[], b"").read().status, 405);
}

#[test]
fn draw_draws_what_it_is_asked_for() {
    let host = examples();
    let get = |path: &str| host.send_to("draw.localhost", "GET", path, &[], b"").read();
    assert!(get("/").text().contains("<title>Draw</title>"));
    let reply = get("/api/draw?prompt=a+red+circle+on+a+blue+background&seed=3");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("image/png")), "{}", reply.text());
    assert!(reply.body.starts_with(b"\x89PNG\r\n"));
    assert_eq!(get("/api/draw?prompt=a+red+circle+on+a+blue+background&seed=3").body, reply.body, "a seed decides");
    for refused in ["", "?prompt=x&seed=-1", "?prompt=x&steps=0", "?prompt=x&steps=21"] {
        assert_eq!(get(&format!("/api/draw{refused}")).status, 400, "{refused}");
    }
}

#[test]
fn transcribe_writes_down_what_is_said() {
    let host = examples();
    let send =
        |method: &str, path: &str, body: &[u8]| host.send_to("transcribe.localhost", method, path, &[], body).read();
    assert!(send("GET", "/", b"").text().contains("<title>Transcribe</title>"));
    let sound = std::fs::read(workspace().join("host/inference/tests/golden/speech/jfk.flac")).unwrap();
    let reply = send("POST", "/api/transcribe", &sound);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert!(answer["text"].as_str().unwrap().contains("ask not what your country can do for you"), "{answer}");
    assert!(answer["vtt"].as_str().unwrap().starts_with("WEBVTT"), "{answer}");
    for refused in [&b""[..], b"no sound at all"] {
        assert_eq!(send("POST", "/api/transcribe", refused).status, 400);
    }
    assert_eq!(send("GET", "/api/transcribe", b"").status, 405);
}

#[test]
fn image_search_gives_pictures_and_texts_vectors_of_one_space() {
    let golden = workspace().join("host/inference/tests/golden/vision");
    let reference: Value = serde_json::from_slice(&std::fs::read(golden.join("golden.json")).unwrap()).unwrap();
    let case = &reference["contrastive"]["clip"];
    let host = examples_with_clip();
    let send =
        |method: &str, path: &str, body: &[u8]| host.send_to("image-search.localhost", method, path, &[], body).read();
    let vector = |reply: &crate::harness::Reply| -> Vec<f64> {
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["vector"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    assert!(send("GET", "/", b"").text().contains("<title>Image search</title>"));
    let texts: Vec<_> =
        ["/api/text?q=a+cat", "/api/text?q=two+dogs"].map(|path| vector(&send("GET", path, b""))).into();
    let close = |got: &[f64], wanted: &Value| {
        let wanted = wanted.as_array().unwrap().iter().map(|value| value.as_f64().unwrap());
        got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-4)
    };
    for (file, expected) in ["cat.png", "tall.png"].iter().zip(case["pictures"].as_array().unwrap()) {
        let picture = vector(&send("POST", "/api/picture", &std::fs::read(golden.join(file)).unwrap()));
        assert!(close(&picture, &expected["image"]), "{file}: {picture:?}");
        for (text, wanted) in texts.iter().zip(expected["texts"].as_array().unwrap()) {
            assert!(close(text, wanted), "{text:?}");
        }
    }
    assert_eq!(send("POST", "/api/picture", b"no picture").status, 400);
    assert_eq!((send("POST", "/api/picture", b"").status, send("GET", "/api/text", b"").status), (400, 400));
    assert_eq!(send("GET", "/api/picture", b"").status, 405);
}

#[test]
fn image_search_without_its_model_is_served_and_says_how_to_get_it() {
    let host = examples();
    let reply = host.send_to("image-search.localhost", "GET", "/api/text?q=a+cat", &[], b"").read();
    let text = reply.text();
    assert_eq!(reply.status, 503, "{text}");
    assert!(text.contains("host models pull hf:openai/clip-vit-large-patch14 --as clip-vit-large-patch14"), "{text}");
}
