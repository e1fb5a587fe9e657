//! Random operations, beside a model that keeps everything in a map and compares all.

use std::collections::BTreeMap;

use host_vectorize::{Metric, PropertyKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Bench, ids, indexes};

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<(u8, [i8; 3], u8)>),
    Upsert(Vec<(u8, [i8; 3], u8)>),
    Delete(Vec<u8>),
    Query([i8; 3], Option<u8>, Option<u8>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let vectors = || prop::collection::vec((0..30u8, any::<[i8; 3]>(), 0..4u8), 1..6);
    prop_oneof![
        3 => vectors().prop_map(Step::Insert),
        3 => vectors().prop_map(Step::Upsert),
        2 => prop::collection::vec(0..30u8, 1..6).prop_map(Step::Delete),
        4 => (any::<[i8; 3]>(), prop::option::of(0..4u8), prop::option::of(0..4u8)).prop_map(|(q, n, f)| Step::Query(q, n, f)),
        1 => Just(Step::Reopen),
    ]
}

type Model = BTreeMap<String, ([i8; 3], u8)>;

fn batch(vectors: &[(u8, [i8; 3], u8)]) -> Value {
    let vector = |(id, values, group): &(u8, [i8; 3], u8)| json!({ "id": format!("v{id}"), "values": values, "namespace": format!("n{group}"), "metadata": { "g": group % 3 } });
    vectors.iter().map(vector).collect()
}

fn distance(a: [i8; 3], b: [i8; 3]) -> i32 {
    a.iter().zip(b).map(|(a, b)| (i32::from(*a) - i32::from(b)).pow(2)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_index_answers_as_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new(3, Metric::Euclidean);
        bench.run(bench.index.create_metadata_index("g", PropertyKind::Number)).unwrap();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Insert(vectors) => {
                    bench.insert(batch(&vectors)).unwrap();
                    for (id, values, group) in vectors {
                        model.entry(format!("v{id}")).or_insert((values, group));
                    }
                }
                Step::Upsert(vectors) => {
                    bench.upsert(batch(&vectors)).unwrap();
                    for (id, values, group) in vectors {
                        model.insert(format!("v{id}"), (values, group));
                    }
                }
                Step::Delete(gone) => {
                    let gone: Vec<String> = gone.iter().map(|id| format!("v{id}")).collect();
                    bench.run(bench.index.delete_by_ids(json!(gone), 1000)).unwrap();
                    model.retain(|id, _| !gone.contains(id));
                }
                Step::Query(query, namespace, filter) => {
                    let options = json!({
                        "topK": 7,
                        "namespace": namespace.map(|group| format!("n{group}")),
                        "filter": filter.map(|group| json!({ "g": group })),
                    });
                    let found = ids(&bench.query(json!(query), options).unwrap());
                    let mut expected: Vec<i32> = model
                        .values()
                        .filter(|(_, group)| namespace.is_none_or(|wanted| wanted == *group))
                        .filter(|(_, group)| filter.is_none_or(|wanted| wanted == group % 3))
                        .map(|(values, _)| distance(*values, query))
                        .collect();
                    expected.sort_unstable();
                    expected.truncate(7);
                    let found: Vec<i32> = found.iter().map(|id| distance(model[id].0, query)).collect();
                    prop_assert_eq!(found, expected);
                }
                Step::Reopen => bench.index = indexes(&bench.folder).get("notes").unwrap(),
            }
            prop_assert_eq!(bench.count(), model.len() as u64);
        }
    }
}
