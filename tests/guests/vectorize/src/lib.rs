//! Calls every method of a vector index, for the tests of `env.vectorize`.
//!
//! | path | answer |
//! | --- | --- |
//! | `/methods` | what each method gave, by its name |
//! | `POST /filtered` | the ids and the indexed metadata of what the filter in the body leaves of three vectors |
//! | `/errors` | what wrong calls gave: `{case: {code, status, message}}` |
//! | `/missing` | the message for a binding that is not granted |

use host_sdk::vectorize::{QueryOptions, ReturnMetadata, Vector};
use host_sdk::*;
use serde_json::{Value, json};

#[fetch]
async fn main(mut req: Request, env: Env) -> Result<Response> {
    match req.path().as_str() {
        "/methods" => methods(&env).await,
        "/filtered" => filtered(&env, req.json().await?).await,
        "/errors" => errors(&env).await,
        "/missing" => {
            let missing = env.vectorize("OTHER").err();
            Response::ok(missing.map_or_else(|| "granted".into(), |error| error.to_string()))
        }
        other => Response::error(format!("no such path: {other}"), 404),
    }
}

async fn methods(env: &Env) -> Result<Response> {
    let index = env.vectorize("V")?;
    let inserted = index
        .insert(&[
            Vector::new("a", vec![1.0, 0.0, 0.0]).namespace("one").metadata("lang", "en"),
            Vector::new("b", vec![0.0, 1.0, 0.0]),
        ])
        .await?;
    let upserted =
        index.upsert(&[Vector::new("b", vec![0.5, 0.5, 0.0]), Vector::new("c", vec![0.0, 0.0, 1.0])]).await?;
    let options = QueryOptions::default().top_k(2).return_values().return_metadata(ReturnMetadata::All);
    let query = index.query(&[1.0, 0.0, 0.0], &options).await?;
    let namespace = index.query(&[0.0, 0.0, 1.0], &QueryOptions::default().namespace("one")).await?;
    let by_id = index.query_by_id("c", &QueryOptions::default().top_k(1)).await?;
    let got = index.get_by_ids(&["b", "nobody"]).await?;
    let deleted = index.delete_by_ids(&["a"]).await?;
    let described = index.describe().await?;
    Response::from_json(&json!({
        "mutations": [inserted.mutation_id.len(), upserted.mutation_id.len()],
        "query": query.matches.iter().map(|found| json!({
            "id": found.id, "score": found.score, "values": found.values, "metadata": found.metadata,
            "namespace": found.namespace,
        })).collect::<Vec<Value>>(),
        "namespace": namespace.matches.iter().map(|found| &found.id).collect::<Vec<_>>(),
        "byId": by_id.matches.iter().map(|found| &found.id).collect::<Vec<_>>(),
        "got": got,
        "count": described.vector_count,
        "dimensions": described.dimensions,
        "processed": described.processed_up_to_mutation == Some(deleted.mutation_id),
    }))
}

async fn filtered(env: &Env, filter: Value) -> Result<Response> {
    let index = env.vectorize("V")?;
    let vector = |id: &str, x: f32, lang: &str, year: u32| {
        let vector = Vector::new(id, vec![x, 1.0, 0.0]).metadata("lang", lang).metadata("other", 1);
        vector.metadata("deep", json!({ "year": year }))
    };
    index.upsert(&[vector("a", 3.0, "en", 2020), vector("b", 2.0, "de", 2021), vector("c", 1.0, "fr", 2022)]).await?;
    let options = QueryOptions::default().filter(filter).return_metadata(ReturnMetadata::Indexed);
    let found = index.query(&[1.0, 0.0, 0.0], &options).await?;
    let found: Vec<Value> = found.matches.iter().map(|found| json!([found.id, found.metadata])).collect();
    Response::from_json(&found)
}

async fn errors(env: &Env) -> Result<Response> {
    let index = env.vectorize("V")?;
    let short = index.insert(&[Vector::new("x", vec![1.0])]).await.err();
    let nan = index.upsert(&[Vector::new("x", vec![1.0, f32::NAN, 0.0])]).await.err();
    let query = index.query(&[1.0], &QueryOptions::default()).await.err();
    let many = index.query(&[1.0, 0.0, 0.0], &QueryOptions::default().top_k(21).return_values()).await.err();
    let filter = QueryOptions::default().filter(json!({ "k": { "$near": 1 } }));
    let filter = index.query(&[1.0, 0.0, 0.0], &filter).await.err();
    let ids: Vec<String> = (0..21).map(|number| number.to_string()).collect();
    let ids = index.get_by_ids(&ids).await.err();
    let absent = env.vectorize("ABSENT")?.describe().await.err();
    let shown = |error: Option<Error>| match error {
        Some(Error::Binding(error)) => json!({ "code": error.code, "status": error.status, "message": error.message }),
        other => json!(other.map(|error| error.to_string())),
    };
    Response::from_json(&json!({
        "short": shown(short), "nan": shown(nan), "query": shown(query), "many": shown(many), "filter": shown(filter),
        "ids": shown(ids), "absent": shown(absent),
    }))
}
