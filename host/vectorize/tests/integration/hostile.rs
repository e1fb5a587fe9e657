//! What bad input gets: the documented error, with the place named, and nothing done.

use host_vectorize::{Metric, PropertyKind, VectorizeError};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::Bench;

fn refused(error: &VectorizeError, code: Option<u32>, parts: &[&str]) {
    let VectorizeError::Invalid { code: found, message } = error else { panic!("{error:?}") };
    assert_eq!(*found, code, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn a_wrong_vector_is_refused_with_its_batch() {
    let bench = Bench::new(2, Metric::Cosine);
    let good = json!({ "id": "good", "values": [1, 0] });
    let deep = (0..40).fold(json!(1), |inner, _| json!({ "k": inner }));
    for (bad, code, parts) in [
        (json!({ "id": "x", "values": [1] }), Some(40012), &["\"x\"", "expected 2 dimensions, and got 1"][..]),
        (json!({ "id": "x", "values": [] }), Some(40012), &["got 0 dimensions"]),
        (json!({ "id": "x", "values": [1, null] }), Some(40023), &["vectors[1].values[1]", "NaN"]),
        (json!({ "id": "x", "values": [1, "2"] }), Some(40023), &["vectors[1].values[1]", "a string"]),
        (json!({ "id": "x", "values": [1, 1e300] }), Some(40023), &["vectors[1].values[1]", "float32"]),
        (json!({ "id": "x", "values": "12" }), Some(40023), &["vectors[1].values"]),
        (json!({ "id": "x" }), Some(40023), &["vectors[1].values", "nothing"]),
        (json!({ "values": [1, 2] }), Some(40023), &["vectors[1].id"]),
        (json!({ "id": 7, "values": [1, 2] }), Some(40023), &["vectors[1].id", "a number"]),
        (json!({ "id": "", "values": [1, 2] }), Some(40008), &["empty"]),
        (json!({ "id": "é".repeat(33), "values": [1, 2] }), Some(40008), &["max is 64 bytes, got 66 bytes"]),
        (json!("x"), Some(40023), &["vectors[1]"]),
        (json!({ "id": "x", "values": [1, 2], "namespace": "n".repeat(65) }), None, &["vectors[1].namespace", "65"]),
        (json!({ "id": "x", "values": [1, 2], "namespace": 1 }), Some(40023), &["vectors[1].namespace"]),
        (json!({ "id": "x", "values": [1, 2], "metadata": [1] }), Some(40023), &["vectors[1].metadata"]),
        (
            json!({ "id": "x", "values": [1, 2], "metadata": { "a.b": 1 } }),
            Some(40018),
            &["vectors[1].metadata", "a.b"],
        ),
        (json!({ "id": "x", "values": [1, 2], "metadata": { "": 1 } }), Some(40018), &["empty"]),
        (json!({ "id": "x", "values": [1, 2], "metadata": { "n": { "$k": 1 } } }), Some(40018), &["$k"]),
        (json!({ "id": "x", "values": [1, 2], "metadata": { "k": "v".repeat(10 << 10) } }), None, &["10240", "\"x\""]),
        (json!({ "id": "x", "values": [1, 2], "metadata": { "k": deep } }), None, &["nested"]),
    ] {
        for upsert in [false, true] {
            let batch = json!([good, bad]);
            let error = if upsert { bench.upsert(batch) } else { bench.insert(batch) }.unwrap_err();
            refused(&error, code, parts);
        }
        assert_eq!(bench.count(), 0, "{bad}");
    }
}

#[test]
fn batches_have_bounds() {
    let bench = Bench::new(1, Metric::Cosine);
    let many: Vec<Value> = (0..1001).map(|n| json!({ "id": n.to_string(), "values": [1] })).collect();
    let error = bench.run(bench.index.insert(json!(many), 1000)).unwrap_err();
    refused(&error, Some(40007), &["max vector count is 1000, got 1001"]);
    let ids: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let error = bench.run(bench.index.get_by_ids(json!(ids[..21]))).unwrap_err();
    refused(&error, Some(40007), &["max id count is 20, got 21"]);
    let error = bench.run(bench.index.delete_by_ids(json!(ids), 1000)).unwrap_err();
    refused(&error, Some(40007), &["max id count is 1000, got 1001"]);
    for empty in [json!([]), json!(null), json!({}), json!("a")] {
        assert!(bench.insert(empty.clone()).is_err() && bench.run(bench.index.delete_by_ids(empty, 1000)).is_err());
    }
    let error = bench.run(bench.index.get_by_ids(json!(["a", 2]))).unwrap_err();
    refused(&error, None, &["ids[1]"]);
}

#[test]
fn a_wrong_query_is_refused() {
    let bench = Bench::new(2, Metric::Cosine);
    bench.run(bench.index.create_metadata_index("k", PropertyKind::Number)).unwrap();
    let error = bench.query(json!([1, 2, 3]), Value::Null).unwrap_err();
    refused(&error, Some(40006), &["invalid query vector, expected 2 dimensions, and got 3 dimensions"]);
    for (vector, part) in [(json!([1, null]), "vector[1]"), (json!("x"), "vector"), (json!(null), "vector")] {
        refused(&bench.query(vector, Value::Null).unwrap_err(), Some(40026), &[part]);
    }
    let nested = (0..100).fold(json!(1), |inner, _| json!({ "$eq": inner }));
    for (options, code, part) in [
        (json!({ "topK": 101 }), 40025, "max top K is 100"),
        (json!({ "topK": 21, "returnValues": true }), 40025, "max top K is 20, but got 21"),
        (json!({ "topK": 21, "returnMetadata": "all" }), 40025, "returnMetadata=indexed"),
        (json!({ "topK": 21, "returnMetadata": true }), 40025, "max top K is 20"),
        (json!({ "topK": 0 }), 40026, "topK"),
        (json!({ "topK": 1.5 }), 40026, "topK"),
        (json!({ "topK": "5" }), 40026, "topK"),
        (json!({ "returnMetadata": "some" }), 40026, "Invalid returnMetadata option"),
        (json!({ "returnValues": 1 }), 40026, "returnValues"),
        (json!({ "namespace": 1 }), 40023, "namespace"),
        (json!([]), 40026, "options"),
        (json!({ "filter": {} }), 40026, "empty"),
        (json!({ "filter": "k" }), 40026, "object"),
        (json!({ "filter": { "k": { "$near": 1 } } }), 40026, "\"$near\""),
        (json!({ "filter": { "k": { "j": 1 } } }), 40026, "\"j\""),
        (json!({ "filter": { "k": {} } }), 40026, "\"k\""),
        (json!({ "filter": { "k": [1] } }), 40026, "\"k\""),
        (json!({ "filter": { "k": nested } }), 40026, "$eq"),
        (json!({ "filter": { "$k": 1 } }), 40026, "\"$k\""),
        (json!({ "filter": { "": 1 } }), 40026, "empty"),
        (json!({ "filter": { "k": { "$in": 1 } } }), 40026, "array"),
        (json!({ "filter": { "k": { "$lt": null } } }), 40026, "null"),
        (json!({ "filter": { "k": "v".repeat(2048) } }), 40026, "2048"),
    ] {
        refused(&bench.query(json!([1, 0]), options.clone()).unwrap_err(), Some(code), &[part]);
        bench.insert(json!([{ "id": "a", "values": [1, 0] }])).unwrap();
        let error = bench.run(bench.index.query_by_id(&json!("a"), &options)).unwrap_err();
        refused(&error, Some(code), &[part]);
    }
}

#[test]
fn metadata_indexes_have_bounds() {
    let bench = Bench::new(1, Metric::Cosine);
    for number in 0..10 {
        bench.run(bench.index.create_metadata_index(&format!("p{number}"), PropertyKind::String)).unwrap();
    }
    let error = bench.run(bench.index.create_metadata_index("p10", PropertyKind::String)).unwrap_err();
    refused(&error, None, &["at most 10"]);
    let error = bench.run(bench.index.create_metadata_index("p0", PropertyKind::Number)).unwrap_err();
    refused(&error, None, &["\"p0\"", "string"]);
    bench.run(bench.index.delete_metadata_index("p0")).unwrap();
    refused(&bench.run(bench.index.delete_metadata_index("p0")).unwrap_err(), None, &["\"p0\""]);
    for name in ["", "a..b", "$a", "a.$b", "a\"b", &"x".repeat(513)] {
        assert!(bench.run(bench.index.create_metadata_index(name, PropertyKind::String)).is_err(), "{name}");
    }
    assert_eq!(bench.run(bench.index.metadata_indexes()).unwrap().len(), 9);
}

#[test]
fn vectors_without_a_direction_are_compared_all_the_same() {
    for metric in Metric::ALL {
        let bench = Bench::new(2, metric);
        bench.insert(json!([{ "id": "zero", "values": [0, 0] }, { "id": "huge", "values": [3e38, 3e38] }])).unwrap();
        for query in [json!([0, 0]), json!([3e38, -3e38]), json!([1, 1])] {
            let found = bench.query(query, Value::Null).unwrap();
            assert_eq!(found["count"], 2, "{metric}");
        }
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[$a-z.\"|é]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(
                prop_oneof![Just("id"), Just("values"), Just("filter"), Just("topK"), Just("$in"), Just("k")]
                    .prop_map(str::to_owned),
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_panics_whatever_is_asked(one in anything(), other in anything()) {
        let bench = Bench::new(1, Metric::Cosine);
        bench.run(bench.index.create_metadata_index("k", PropertyKind::Number)).unwrap();
        let _ = bench.insert(one.clone());
        let _ = bench.upsert(json!([one]));
        let _ = bench.query(one.clone(), other.clone());
        let _ = bench.query(json!([1]), other.clone());
        let _ = bench.query(json!([1]), json!({ "filter": other }));
        let _ = bench.run(bench.index.get_by_ids(one.clone()));
        let _ = bench.run(bench.index.delete_by_ids(one, 10));
        prop_assert!(bench.count() <= 5);
    }
}
