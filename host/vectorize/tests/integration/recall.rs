//! How many of the ten nearest a search in the graph finds, beside comparing all.

use host_vectorize::{Metric, PropertyKind};
use serde_json::{Value, json};

use crate::support::{Bench, Random, entry, ids};

const COUNT: usize = 8000;
const DIMENSIONS: usize = 64;
const QUERIES: usize = 60;

/// Vectors as embeddings are: around centres, along fewer directions than they have numbers; and without any order.
fn clustered(random: &mut Random) -> Vec<Vec<f32>> {
    let directions: Vec<Vec<f32>> = (0..16).map(|_| random.vector(DIMENSIONS)).collect();
    let centres: Vec<Vec<f32>> = (0..40).map(|_| random.vector(DIMENSIONS)).collect();
    (0..COUNT + QUERIES)
        .map(|_| {
            let mut vector = centres[random.below(40)].clone();
            for direction in &directions {
                let along = 0.4 * random.normal();
                vector.iter_mut().zip(direction).for_each(|(value, step)| *value += along * step);
            }
            vector
        })
        .collect()
}

fn nearest(vectors: &[Vec<f32>], query: &[f32], metric: Metric, allowed: impl Fn(usize) -> bool) -> Vec<String> {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let distance = |vector: &[f32]| match metric {
        Metric::Cosine => -dot(vector, query) / dot(vector, vector).sqrt(),
        Metric::DotProduct => -dot(vector, query),
        Metric::Euclidean => dot(vector, vector) - 2.0 * dot(vector, query),
    };
    let mut all: Vec<(f64, usize)> =
        (0..vectors.len()).filter(|n| allowed(*n)).map(|n| (distance(&vectors[n]), n)).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    all.iter().take(10).map(|(_, number)| number.to_string()).collect()
}

fn recall(vectors: &[Vec<f32>], metric: Metric, what: &str) {
    let (kept, queries) = vectors.split_at(COUNT);
    let bench = Bench::new(DIMENSIONS, metric);
    bench.run(bench.index.create_metadata_index("group", PropertyKind::Number)).unwrap();
    let entries: Vec<Value> = kept
        .iter()
        .enumerate()
        .map(|(number, vector)| entry(&number.to_string(), vector, json!({ "group": number % 10 })))
        .collect();
    for batch in entries.chunks(2000) {
        bench.insert(json!(batch)).unwrap();
    }
    bench.count();
    bench.index.wait_for_graph();
    // Half of all leads the search in the graph past what it may not return; a tenth is compared one by one.
    for (share, filter) in [(10, Value::Null), (5, json!({ "group": { "$lt": 5 } })), (1, json!({ "group": 3 }))] {
        let allowed = |number: usize| match share {
            10 => true,
            5 => number % 10 < 5,
            _ => number % 10 == 3,
        };
        let mut found = 0;
        for query in queries {
            let answer = bench.query(json!(query), json!({ "topK": 10, "filter": filter })).unwrap();
            let expected = nearest(kept, query, metric, allowed);
            found += ids(&answer).iter().filter(|id| expected.contains(id)).count();
        }
        let recall = found as f64 / (10 * queries.len()) as f64;
        println!("{what}, {metric}, {share} of 10: {recall}");
        assert!(recall >= 0.95, "{what}, {metric}, {share} of 10: {recall}");
    }
}

#[test]
fn clustered_vectors_are_found() {
    let vectors = clustered(&mut Random(1));
    for metric in Metric::ALL {
        recall(&vectors, metric, "clustered");
    }
}

#[test]
fn random_vectors_are_found() {
    let mut random = Random(2);
    let vectors: Vec<Vec<f32>> = (0..COUNT + QUERIES).map(|_| random.vector(DIMENSIONS)).collect();
    recall(&vectors, Metric::Cosine, "random");
    recall(&vectors, Metric::Euclidean, "random");
}

#[test]
fn what_was_deleted_or_replaced_is_not_found_in_the_graph() {
    let mut random = Random(3);
    let vectors: Vec<Vec<f32>> = (0..6000).map(|_| random.vector(8)).collect();
    let bench = Bench::new(8, Metric::Euclidean);
    let entries: Vec<Value> =
        vectors.iter().enumerate().map(|(n, vector)| entry(&n.to_string(), vector, json!({}))).collect();
    for batch in entries.chunks(3000) {
        bench.insert(json!(batch)).unwrap();
    }
    bench.count();
    bench.index.wait_for_graph();
    let gone: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    bench.run(bench.index.delete_by_ids(json!(gone), 5000)).unwrap();
    bench.upsert(json!([entry("5999", &[100.0; 8], json!({}))])).unwrap();
    assert_eq!(ids(&bench.query(json!(vec![100.0; 8]), json!({ "topK": 1 })).unwrap()), ["5999"]);
    for (number, vector) in vectors.iter().enumerate().take(1000).step_by(50) {
        let found = ids(&bench.query(json!(vector), json!({ "topK": 10 })).unwrap());
        assert_eq!(found.len(), 10);
        assert!(!found.contains(&number.to_string()) && found.iter().all(|id| id.parse::<usize>().unwrap() >= 1000));
    }
    // So much goes that a view is made anew.
    let gone: Vec<String> = (1000..4500).map(|n| n.to_string()).collect();
    bench.run(bench.index.delete_by_ids(json!(gone), 5000)).unwrap();
    assert_eq!(bench.count(), 1500);
    let found = ids(&bench.query(json!(vectors[5000]), json!({ "topK": 1 })).unwrap());
    assert_eq!(found, ["5000"]);
}
