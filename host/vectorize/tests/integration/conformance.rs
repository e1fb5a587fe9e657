//! Each method as Vectorize documents it.

use host_vectorize::{IndexConfig, Metric, PropertyKind, VectorizeError};
use serde_json::{Value, json};

use crate::support::{Bench, entry, ids, indexes};

fn three() -> Bench {
    let bench = Bench::new(2, Metric::Cosine);
    let vectors = json!([
        { "id": "a", "values": [1, 0], "namespace": "one", "metadata": { "lang": "en", "year": 2020, "deep": { "ok": true } } },
        { "id": "b", "values": [1, 1], "namespace": "two", "metadata": { "lang": "de", "year": 2021, "deep": { "ok": false } } },
        { "id": "c", "values": [0, 2], "metadata": { "year": 2022.5 } },
    ]);
    bench.insert(vectors).unwrap();
    for (name, kind) in
        [("lang", PropertyKind::String), ("year", PropertyKind::Number), ("deep.ok", PropertyKind::Boolean)]
    {
        bench.run(bench.index.create_metadata_index(name, kind)).unwrap();
    }
    bench
}

#[test]
fn a_query_finds_the_nearest_first() {
    let bench = three();
    let found = bench.query(json!([2, 0]), Value::Null).unwrap();
    assert_eq!(ids(&found), ["a", "b", "c"]);
    assert_eq!(found["count"], 3);
    let scores: Vec<f64> = found["matches"].as_array().unwrap().iter().map(|m| m["score"].as_f64().unwrap()).collect();
    for (score, expected) in scores.iter().zip([1.0, 0.5f64.sqrt(), 0.0]) {
        assert!((score - expected).abs() < 1e-6, "{score}");
    }
    assert!(found["matches"][0].get("values").is_none() && found["matches"][0].get("metadata").is_none());
    assert_eq!(found["matches"][0]["namespace"], "one");
    let found =
        bench.query(json!([2, 0]), json!({ "topK": 1, "returnValues": true, "returnMetadata": "all" })).unwrap();
    assert_eq!(found["matches"][0]["values"], json!([1.0, 0.0]));
    assert_eq!(found["matches"][0]["metadata"]["deep"]["ok"], true);
}

#[test]
fn scores_are_those_of_the_metric() {
    for (metric, expected) in [(Metric::Cosine, 1.0), (Metric::Euclidean, 5.0), (Metric::DotProduct, -50.0)] {
        let bench = Bench::new(2, metric);
        bench.insert(json!([{ "id": "a", "values": [3, 4] }])).unwrap();
        let found = bench.query(json!([6, 8]), Value::Null).unwrap();
        let score = found["matches"][0]["score"].as_f64().unwrap();
        assert!((score - expected).abs() < 1e-5, "{metric}: {score}");
    }
}

#[test]
fn filters_see_what_has_a_metadata_index() {
    let bench = three();
    for (filter, expected) in [
        (json!({ "lang": "en" }), &["a"][..]),
        (json!({ "lang": { "$eq": "de" } }), &["b"]),
        (json!({ "lang": { "$ne": "en" } }), &["b", "c"]),
        (json!({ "lang": null }), &["c"]),
        (json!({ "lang": { "$ne": null } }), &["a", "b"]),
        (json!({ "lang": { "$in": ["en", "fr"] } }), &["a"]),
        (json!({ "lang": { "$nin": ["en", "fr"] } }), &["b", "c"]),
        (json!({ "lang": { "$gte": "d", "$lt": "e" } }), &["b"]),
        (json!({ "year": { "$gt": 2020 } }), &["b", "c"]),
        (json!({ "year": { "$gte": 2021, "$lte": 2022 } }), &["b"]),
        (json!({ "year": { "$lt": 2021 } }), &["a"]),
        (json!({ "year": { "$gt": 2023, "$lt": 2020 } }), &[]),
        (json!({ "year": "2020" }), &[]),
        (json!({ "deep.ok": true }), &["a"]),
        (json!({ "deep.ok": false, "lang": "de" }), &["b"]),
        (json!({ "deep.ok": true, "lang": "de" }), &[]),
    ] {
        let found = bench.query(json!([1, 0]), json!({ "filter": filter })).unwrap();
        assert_eq!(ids(&found), expected, "{filter}");
    }
    let found = bench.query(json!([1, 0]), json!({ "returnMetadata": "indexed" })).unwrap();
    assert_eq!(found["matches"][0]["metadata"], json!({ "deep": { "ok": true }, "lang": "en", "year": 2020 }));
    let error = bench.query(json!([1, 0]), json!({ "filter": { "other": 1 } })).unwrap_err().to_string();
    assert!(error.contains("\"other\"") && error.contains("create-metadata-index notes"), "{error}");
}

#[test]
fn texts_are_filtered_by_their_first_64_bytes() {
    let bench = Bench::new(1, Metric::Euclidean);
    bench.run(bench.index.create_metadata_index("t", PropertyKind::String)).unwrap();
    let long = format!("{}{}", "é".repeat(32), "x".repeat(40));
    bench.insert(json!([entry("a", &[1.0], json!({ "t": long }))])).unwrap();
    let other = format!("{}{}", "é".repeat(32), "y".repeat(40));
    for text in [&long, &other] {
        assert_eq!(ids(&bench.query(json!([1]), json!({ "filter": { "t": text } })).unwrap()), ["a"]);
    }
    let found = bench.query(json!([1]), json!({ "returnMetadata": "indexed" })).unwrap();
    assert_eq!(found["matches"][0]["metadata"]["t"], "é".repeat(32));
}

#[test]
fn a_namespace_is_searched_alone() {
    let bench = three();
    let query = |namespace: &str| ids(&bench.query(json!([1, 0]), json!({ "namespace": namespace })).unwrap());
    assert_eq!(query("one"), ["a"]);
    assert_eq!(query("two"), ["b"]);
    assert!(query("none").is_empty());
}

#[test]
fn insert_keeps_what_is_there_and_upsert_replaces_it() {
    let bench = Bench::new(1, Metric::Euclidean);
    bench.insert(json!([{ "id": "a", "values": [1] }, { "id": "a", "values": [2] }])).unwrap();
    let value = || bench.run(bench.index.get_by_ids(json!(["a"]))).unwrap()[0].clone();
    assert_eq!(value()["values"], json!([1.0]));
    bench.insert(json!([{ "id": "a", "values": [3] }])).unwrap();
    assert_eq!(value()["values"], json!([1.0]));
    bench.upsert(json!([{ "id": "a", "values": [4], "metadata": { "k": 1 } }, { "id": "a", "values": [5] }])).unwrap();
    assert_eq!(value(), json!({ "id": "a", "values": [5.0] }));
    assert_eq!(bench.count(), 1);
    let found = bench.query(json!([5]), Value::Null).unwrap();
    assert_eq!(found["matches"], json!([{ "id": "a", "score": 0.0 }]));
}

#[test]
fn vectors_are_found_by_id_and_deleted() {
    let bench = three();
    let got = bench.run(bench.index.get_by_ids(json!(["c", "missing", "a"]))).unwrap();
    assert_eq!(got[0], json!({ "id": "c", "values": [0.0, 2.0], "metadata": { "year": 2022.5 } }));
    assert_eq!(got.as_array().unwrap().len(), 2);
    let alike = bench.run(bench.index.query_by_id(&json!("b"), &json!({ "topK": 2 }))).unwrap();
    assert_eq!(ids(&alike)[0], "b");
    bench.run(bench.index.delete_by_ids(json!(["b", "missing"]), 1000)).unwrap();
    assert_eq!(ids(&bench.query(json!([1, 1]), Value::Null).unwrap()).len(), 2);
    assert_eq!(bench.count(), 2);
    let error = bench.run(bench.index.query_by_id(&json!("b"), &Value::Null)).unwrap_err();
    assert!(error.to_string().contains("\"b\""), "{error}");
    let page = bench.run(bench.index.list(None, 1)).unwrap();
    assert_eq!((&page["vectors"], &page["nextCursor"]), (&json!([{ "id": "a" }]), &json!("a")));
    let page = bench.run(bench.index.list(Some("a".to_owned()), 1)).unwrap();
    assert_eq!((&page["vectors"], &page["isTruncated"]), (&json!([{ "id": "c" }]), &json!(false)));
}

#[test]
fn a_description_says_which_mutation_queries_see() {
    let bench = Bench::new(1, Metric::Euclidean);
    let described = || bench.run(bench.index.describe()).unwrap();
    assert_eq!(described()["processedUpToMutation"], Value::Null);
    let mutation = bench.insert(json!([{ "id": "a", "values": [1] }])).unwrap();
    let seen = described();
    assert_eq!(seen["processedUpToMutation"], mutation["mutationId"]);
    assert_eq!((&seen["vectorCount"], &seen["dimensions"]), (&json!(1), &json!(1)));
    assert!(seen["processedUpToDatetime"].as_str().unwrap().ends_with('Z'));
    assert_eq!(mutation["mutationId"].as_str().unwrap().len(), 36);
}

#[test]
fn what_another_process_writes_is_found() {
    let bench = Bench::new(1, Metric::Euclidean);
    assert_eq!(bench.count(), 0);
    let other = indexes(&bench.folder).get("notes").unwrap();
    bench.run(other.insert(json!([{ "id": "a", "values": [1] }, { "id": "b", "values": [2] }]), 5000)).unwrap();
    assert_eq!(ids(&bench.query(json!([1]), Value::Null).unwrap()), ["a", "b"]);
    bench.run(other.delete_by_ids(json!(["a"]), 5000)).unwrap();
    bench.run(other.create_metadata_index("k", PropertyKind::Number)).unwrap();
    bench.run(other.upsert(json!([{ "id": "c", "values": [3], "metadata": { "k": 7 } }]), 5000)).unwrap();
    assert_eq!(ids(&bench.query(json!([1]), json!({ "filter": { "k": 7 } })).unwrap()), ["c"]);
    assert_eq!(bench.count(), 2);
}

#[test]
fn an_index_that_was_deleted_and_made_again_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (indexes(&folder), indexes(&folder));
    let config = |dimensions| IndexConfig { dimensions, metric: Metric::Cosine, description: None };
    assert!(matches!(one.get("notes"), Err(VectorizeError::NoIndex { .. })));
    one.create("notes", config(2)).unwrap();
    assert_eq!(other.get("notes").unwrap().config().dimensions, 2);
    assert!(matches!(other.create("notes", config(3)), Err(VectorizeError::Exists { dimensions: 2, .. })));
    assert!(other.delete("notes").unwrap());
    assert!(matches!(one.get("notes"), Err(VectorizeError::NoIndex { .. })));
    other.create("notes", config(3)).unwrap();
    assert_eq!(one.get("notes").unwrap().config().dimensions, 3);
    assert_eq!(one.names().unwrap(), ["notes"]);
}
