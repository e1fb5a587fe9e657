//! `env.vectorize("V")?`: a vector index.
//!
//! Types follow Vectorize's: field names on the wire are its own, and what is left out has the service's default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Binding, Result};

/// The index behind one `[[vectorize]]` binding.
///
/// ```no_run
/// use host_sdk::*;
/// use host_sdk::vectorize::{QueryOptions, Vector};
///
/// # async fn example(env: Env, vector: Vec<f32>) -> Result<()> {
/// let index = env.vectorize("NOTES")?;
/// index.upsert(&[Vector::new("note-1", vector.clone())]).await?;
/// let found = index.query(&vector, &QueryOptions::default().top_k(3)).await?;
/// for found in found.matches {
///     console_log!("{}: {}", found.id, found.score);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Vectorize(Binding);

/// A vector with what is kept beside it.
///
/// ```
/// use host_sdk::vectorize::Vector;
///
/// let vector = Vector::new("a", vec![0.1, 0.2]).namespace("texts").metadata("year", 2024);
/// assert_eq!(vector.metadata["year"], 2024);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vector {
    /// Its id: 1 to 64 bytes.
    pub id: String,
    /// As many numbers as the index has dimensions.
    pub values: Vec<f32>,
    /// The part of the index that it is in: up to 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// At most 10 KiB of JSON.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

impl Vector {
    /// A vector without namespace and metadata.
    ///
    /// ```
    /// let vector = host_sdk::vectorize::Vector::new("a", vec![0.1, 0.2]);
    /// assert_eq!(vector.id, "a");
    /// ```
    pub fn new(id: impl Into<String>, values: impl Into<Vec<f32>>) -> Self {
        Self { id: id.into(), values: values.into(), ..Self::default() }
    }

    /// Puts it into a namespace.
    ///
    /// ```
    /// let vector = host_sdk::vectorize::Vector::new("a", vec![0.1]).namespace("texts");
    /// assert_eq!(vector.namespace.as_deref(), Some("texts"));
    /// ```
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Adds a property to its metadata.
    ///
    /// ```
    /// let vector = host_sdk::vectorize::Vector::new("a", vec![0.1]).metadata("lang", "en");
    /// assert_eq!(vector.metadata["lang"], "en");
    /// ```
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

/// How much of the metadata a query returns.
///
/// ```
/// use host_sdk::vectorize::ReturnMetadata;
///
/// assert_eq!(serde_json::to_string(&ReturnMetadata::Indexed).unwrap(), "\"indexed\"");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnMetadata {
    /// Nothing.
    #[default]
    None,
    /// The properties with a metadata index, texts by their first 64 bytes.
    Indexed,
    /// Everything. A query then gives 20 matches at most.
    All,
}

/// How to query.
///
/// ```
/// use host_sdk::vectorize::QueryOptions;
/// use serde_json::json;
///
/// let options = QueryOptions::default().top_k(3).filter(json!({ "year": { "$gte": 2020 } }));
/// assert_eq!(options.top_k, Some(3));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryOptions {
    /// How many matches, up to 100; 5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The only namespace to search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Whether matches have their values. A query then gives 20 matches at most.
    pub return_values: bool,
    /// What of their metadata matches have.
    pub return_metadata: ReturnMetadata,
    /// What the metadata of matches must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
}

impl QueryOptions {
    /// Asks for so many matches.
    ///
    /// ```
    /// assert_eq!(host_sdk::vectorize::QueryOptions::default().top_k(3).top_k, Some(3));
    /// ```
    #[must_use]
    pub fn top_k(mut self, count: u32) -> Self {
        self.top_k = Some(count);
        self
    }

    /// Searches one namespace.
    ///
    /// ```
    /// let options = host_sdk::vectorize::QueryOptions::default().namespace("texts");
    /// assert_eq!(options.namespace.as_deref(), Some("texts"));
    /// ```
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Returns the values of matches.
    ///
    /// ```
    /// assert!(host_sdk::vectorize::QueryOptions::default().return_values().return_values);
    /// ```
    #[must_use]
    pub fn return_values(mut self) -> Self {
        self.return_values = true;
        self
    }

    /// Returns metadata of matches.
    ///
    /// ```
    /// use host_sdk::vectorize::{QueryOptions, ReturnMetadata};
    ///
    /// let options = QueryOptions::default().return_metadata(ReturnMetadata::All);
    /// assert_eq!(options.return_metadata, ReturnMetadata::All);
    /// ```
    #[must_use]
    pub fn return_metadata(mut self, level: ReturnMetadata) -> Self {
        self.return_metadata = level;
        self
    }

    /// Filters by metadata: `$eq`, `$ne`, `$lt`, `$lte`, `$gt`, `$gte`, `$in` and `$nin`, with dots in nested keys.
    ///
    /// ```
    /// use serde_json::json;
    ///
    /// let options = host_sdk::vectorize::QueryOptions::default().filter(json!({ "lang": "en" }));
    /// assert!(options.filter.is_some());
    /// ```
    #[must_use]
    pub fn filter(mut self, filter: impl Into<Value>) -> Self {
        self.filter = Some(filter.into());
        self
    }
}

/// A vector that a query found.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Match {
    /// Its id.
    pub id: String,
    /// How near it is, by the index's metric.
    pub score: f64,
    /// Its values, where they were asked for.
    #[serde(default)]
    pub values: Option<Vec<f32>>,
    /// Its namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Its metadata, where it was asked for.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
}

/// What a query found, nearest first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Matches {
    /// The matches.
    pub matches: Vec<Match>,
    /// How many there are.
    pub count: usize,
}

/// A change of the index that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mutation {
    /// Its id, a UUID.
    pub mutation_id: String,
}

/// An index as it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexInfo {
    /// How many vectors there are.
    pub vector_count: u64,
    /// How many numbers each has.
    pub dimensions: u32,
    /// When the last mutation that queries see was made, in RFC 3339.
    #[serde(default)]
    pub processed_up_to_datetime: Option<String>,
    /// The last mutation that queries see.
    #[serde(default)]
    pub processed_up_to_mutation: Option<String>,
}

impl Vectorize {
    pub(crate) fn new(binding: Binding) -> Self {
        Self(binding)
    }

    /// How many vectors there are, and which mutations queries see.
    ///
    /// # Errors
    /// When there is no such index; the message says how to create it.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// println!("{} vectors", index.describe().await?.vector_count);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn describe(&self) -> Result<IndexInfo> {
        self.0.call("describe", &()).await
    }

    /// The nearest to a vector.
    ///
    /// # Errors
    /// When the vector or an option is wrong: [`crate::Error::Binding`] with the service's code.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// let found = index.query(&[0.1, 0.2], &Default::default()).await?;
    /// # let _ = found;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn query(&self, vector: &[f32], options: &QueryOptions) -> Result<Matches> {
        self.0.call("query", &(vector, options)).await
    }

    /// The nearest to the vector with this id.
    ///
    /// # Errors
    /// As [`Self::query`], and when there is no such vector.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// let alike = index.query_by_id("note-1", &Default::default()).await?;
    /// # let _ = alike;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn query_by_id(&self, id: &str, options: &QueryOptions) -> Result<Matches> {
        self.0.call("queryById", &(id, options)).await
    }

    /// Keeps vectors; those whose ids are taken stay as they were. At most 1000.
    ///
    /// # Errors
    /// When one of them is wrong: then none is kept.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// index.insert(&[host_sdk::vectorize::Vector::new("a", vec![0.1, 0.2])]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn insert(&self, vectors: &[Vector]) -> Result<Mutation> {
        self.0.call("insert", &(vectors,)).await
    }

    /// Keeps vectors, in place of those with their ids. At most 1000.
    ///
    /// # Errors
    /// When one of them is wrong: then none is kept.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// index.upsert(&[host_sdk::vectorize::Vector::new("a", vec![0.1, 0.2])]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upsert(&self, vectors: &[Vector]) -> Result<Mutation> {
        self.0.call("upsert", &(vectors,)).await
    }

    /// The vectors with these ids, as far as they are there. At most 20.
    ///
    /// # Errors
    /// When one of them is no id.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// let vectors = index.get_by_ids(&["a", "b"]).await?;
    /// # let _ = vectors;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_by_ids(&self, ids: &[impl AsRef<str>]) -> Result<Vec<Vector>> {
        self.0.call("getByIds", &(texts(ids),)).await
    }

    /// Deletes the vectors with these ids, as far as they are there. At most 1000.
    ///
    /// # Errors
    /// When one of them is no id: then none is deleted.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::vectorize::Vectorize) -> host_sdk::Result<()> {
    /// index.delete_by_ids(&["a"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_by_ids(&self, ids: &[impl AsRef<str>]) -> Result<Mutation> {
        self.0.call("deleteByIds", &(texts(ids),)).await
    }
}

fn texts(ids: &[impl AsRef<str>]) -> Vec<&str> {
    ids.iter().map(AsRef::as_ref).collect()
}
