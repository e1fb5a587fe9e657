//! One index: its store, and the view of it that searches look at.
//!
//! A mutation is answered when it is in the store. The view follows: a query or a description first applies what the
//! store has and the view has not, whichever process wrote it, so it sees all that was acknowledged before it began. The
//! graph of the view grows on a thread of its own, and what it has not taken in is compared one by one meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use host_state::rusqlite::{self, Connection};
use host_state::{Database, StateError};
use serde_json::{Map, Value, json};

use crate::error::{VectorizeError, quoted};
use crate::limits::MAX_METADATA_INDEXES;
use crate::metadata::{PropertyKind, check_property, indexed_part};
use crate::metric::{Near, Space};
use crate::request::{self, Options, Retrieval, Vector};
use crate::store::{self, IndexConfig, Row, Taken};
use crate::view::View;

/// An open index. Cheap to clone.
#[derive(Clone)]
pub struct Index(Arc<Inner>);

struct Inner {
    name: String,
    config: IndexConfig,
    created: String,
    database: Database,
    view: RwLock<View>,
    /// Held by whoever applies mutations to the view.
    following: Mutex<()>,
    growing: AtomicBool,
}

type Result<T> = std::result::Result<T, VectorizeError>;

impl Index {
    pub(crate) fn open(name: &str, database: Database, config: IndexConfig, created: String) -> Self {
        let view = RwLock::new(View::new(Space::new(config.metric, config.dimensions), 0));
        Self(Arc::new(Inner {
            name: name.to_owned(),
            config,
            created,
            database,
            view,
            following: Mutex::new(()),
            growing: AtomicBool::new(false),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it is.
    pub fn config(&self) -> &IndexConfig {
        &self.0.config
    }

    /// When it was created, in RFC 3339.
    pub fn created(&self) -> &str {
        &self.0.created
    }

    /// Its file.
    pub fn path(&self) -> &std::path::Path {
        self.0.database.path()
    }

    /// How many vectors there are and up to which mutation they are what queries find.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn describe(&self) -> Result<Value> {
        let this = self.clone();
        self.read(move |connection| {
            this.follow(connection)?;
            let (count, applied) = this.see(|view| (view.count(), view.applied));
            let mutation = this.sql(store::mutation_of(connection, applied))?;
            let (mutation, at) = mutation.map_or((None, None), |(mutation, at)| (Some(mutation), Some(at)));
            Ok(json!({
                "vectorCount": count,
                "dimensions": this.0.config.dimensions,
                "processedUpToDatetime": at,
                "processedUpToMutation": mutation,
            }))
        })
        .await
    }

    /// Keeps those of `vectors` whose ids are not taken. At most `most` of them; see [`crate::limits`].
    ///
    /// # Errors
    /// When one of them is wrong: then none is kept.
    pub async fn insert(&self, vectors: Value, most: usize) -> Result<Value> {
        self.put(vectors, most, Taken::Keep).await
    }

    /// Keeps `vectors`, in place of those with their ids. At most `most` of them.
    ///
    /// # Errors
    /// When one of them is wrong: then none is kept.
    pub async fn upsert(&self, vectors: Value, most: usize) -> Result<Value> {
        self.put(vectors, most, Taken::Replace).await
    }

    async fn put(&self, vectors: Value, most: usize, taken: Taken) -> Result<Value> {
        let dimensions = self.0.config.dimensions;
        let vectors: Vec<Vector> = self.blocking(move || request::vectors(vectors, dimensions, most)).await?;
        self.write(move |connection| store::put(connection, &vectors, taken)).await
    }

    /// Deletes the vectors with these ids, as far as they are there.
    ///
    /// # Errors
    /// When one of them is no id: then none is deleted.
    pub async fn delete_by_ids(&self, ids: Value, most: usize) -> Result<Value> {
        let ids = request::ids(ids, most)?;
        self.write(move |connection| store::delete(connection, &ids)).await
    }

    /// The vectors with these ids, as far as they are there, in their order.
    ///
    /// # Errors
    /// When one of them is no id, or there are more than 20.
    pub async fn get_by_ids(&self, ids: Value) -> Result<Value> {
        let ids = request::get_ids(ids)?;
        let this = self.clone();
        self.read(move |connection| {
            let mut vectors = Vec::new();
            for id in ids {
                if let Some(row) = this.sql(store::get(connection, &id))? {
                    let mut entry = Map::new();
                    entry.insert("id".to_owned(), row.id.clone().into());
                    entry.extend(this.parts(&row, true, Retrieval::All, &[])?);
                    vectors.push(Value::Object(entry));
                }
            }
            Ok(vectors.into())
        })
        .await
    }

    /// The nearest to a vector.
    ///
    /// # Errors
    /// When the vector or an option is wrong.
    pub async fn query(&self, vector: &Value, options: &Value) -> Result<Value> {
        let vector = request::query_vector(vector, self.0.config.dimensions)?;
        let options = Options::parse(options)?;
        let this = self.clone();
        self.read(move |connection| this.find(connection, vector, &options)).await
    }

    /// The nearest to the vector with this id, itself among them.
    ///
    /// # Errors
    /// When there is none, or an option is wrong.
    pub async fn query_by_id(&self, id: &Value, options: &Value) -> Result<Value> {
        let id = request::query_id(id)?;
        let options = Options::parse(options)?;
        let this = self.clone();
        self.read(move |connection| {
            let row = this.sql(store::get(connection, &id))?;
            let row = row.ok_or_else(|| VectorizeError::invalid(format!("vector not found for id={}", quoted(&id))))?;
            this.find(connection, this.values(&row)?, &options)
        })
        .await
    }

    /// Ids in order, after `cursor`: `{count, isTruncated, nextCursor?, vectors: [{id}]}`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self, cursor: Option<String>, count: usize) -> Result<Value> {
        let this = self.clone();
        self.read(move |connection| {
            let mut ids = this.sql(store::ids(connection, cursor.as_deref().unwrap_or(""), count.saturating_add(1)))?;
            let more = ids.len() > count;
            ids.truncate(count);
            let next = ids.last().filter(|_| more).cloned();
            let vectors: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
            Ok(json!({ "count": vectors.len(), "isTruncated": more, "nextCursor": next, "vectors": vectors }))
        })
        .await
    }

    /// Properties with a metadata index, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn metadata_indexes(&self) -> Result<Vec<(String, PropertyKind)>> {
        let this = self.clone();
        self.read(move |connection| this.sql(store::properties(connection))).await
    }

    /// Lets filters see the property `name`, a path of dots, where it has values of this type.
    ///
    /// # Errors
    /// When it is no path, there are ten already, or it has one.
    pub async fn create_metadata_index(&self, name: &str, kind: PropertyKind) -> Result<Value> {
        check_property(name)?;
        let (this, name) = (self.clone(), name.to_owned());
        self.try_write(move |connection| {
            let there = this.sql(store::properties(connection))?;
            if let Some((_, kind)) = there.iter().find(|(other, _)| *other == name) {
                let message = format!("the property {} has a metadata index already, of type {kind}", quoted(&name));
                return Err(VectorizeError::invalid(message));
            }
            if there.len() >= MAX_METADATA_INDEXES {
                let message = format!("an index has at most {MAX_METADATA_INDEXES} metadata indexes; delete one first");
                return Err(VectorizeError::invalid(message));
            }
            this.sql(store::create_property(connection, &name, kind))
        })
        .await
    }

    /// Deletes the metadata index of the property `name`.
    ///
    /// # Errors
    /// When it has none.
    pub async fn delete_metadata_index(&self, name: &str) -> Result<Value> {
        let (this, name) = (self.clone(), name.to_owned());
        self.try_write(move |connection| {
            this.sql(store::delete_property(connection, &name))?
                .ok_or_else(|| VectorizeError::invalid(format!("the property {} has no metadata index", quoted(&name))))
        })
        .await
    }

    /// Blocks until the graph has every vector that queries find: for measurements, since queries do not need it.
    pub fn wait_for_graph(&self) {
        while self.see(View::is_behind) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|error| VectorizeError::State(self.0.database.error(&error)))
    }

    fn see<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.0.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.0.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.0.database.read(work).await
    }

    async fn write(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<String> + Send + 'static,
    ) -> Result<Value> {
        let this = self.clone();
        self.try_write(move |connection| this.sql(work(connection))).await
    }

    async fn try_write(&self, work: impl FnOnce(&Connection) -> Result<String> + Send + 'static) -> Result<Value> {
        let mutation: String = self.0.database.write(work).await?;
        Ok(json!({ "mutationId": mutation }))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let closed = || VectorizeError::State(StateError::Closed { path: self.path().to_owned() });
        tokio::task::spawn_blocking(work).await.map_err(|_| closed())?
    }

    /// Brings the view to what `connection` sees. Whoever comes second waits for the first and finds it done.
    fn follow(&self, connection: &Connection) -> Result<()> {
        let last = self.sql(store::last(connection))?;
        if self.see(|view| view.applied) >= last {
            return Ok(());
        }
        let following = self.0.following.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = self.see(|view| view.applied);
        if applied < last {
            let properties = self.sql(store::properties(connection))?;
            let forgotten = self.sql(store::forgotten(connection))?;
            let anew = applied < forgotten || self.see(View::is_stale);
            let done = self.change(|view| {
                if anew {
                    let space = Space::new(self.0.config.metric, self.0.config.dimensions);
                    *view = View::new(space, view.number + 1);
                }
                self.apply(connection, view, &properties, last)
            });
            self.sql(done)?;
        }
        drop(following);
        self.grow();
        Ok(())
    }

    fn apply(
        &self,
        connection: &Connection,
        view: &mut View,
        properties: &[(String, PropertyKind)],
        last: i64,
    ) -> rusqlite::Result<()> {
        let reindex = !view.has_properties(properties);
        if reindex {
            view.set_properties(properties);
        }
        let (applied, dimensions) = (view.applied, self.0.config.dimensions);
        if applied > 0 {
            store::removed(connection, applied, |id| view.remove(id))?;
        }
        store::changed(connection, applied, |row| {
            let Some(values) = store::floats(&row.vector, dimensions) else {
                tracing::error!(index = self.0.name, id = row.id, "a vector of the store has other dimensions");
                return;
            };
            // Properties that are new are read for all vectors below.
            let metadata = row.metadata.as_deref().filter(|_| view.indexes_metadata() && !reindex).and_then(object);
            let vector = view.space.prepared(values);
            view.put(&row.id, &vector, row.namespace.as_deref(), metadata.as_ref());
        })?;
        if reindex && view.indexes_metadata() {
            store::metadata(connection, |id, metadata| {
                if let Some(metadata) = object(metadata) {
                    view.index(id, &metadata);
                }
            })?;
        }
        view.applied = last;
        Ok(())
    }

    /// Has the graph grow to what the view has, on a thread of its own, unless one is at it.
    fn grow(&self) {
        if !self.see(View::is_behind) || self.0.growing.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::downgrade(&self.0);
        let thread = std::thread::Builder::new().name("vectorize-graph".into()).spawn(move || {
            while let Some(inner) = inner.upgrade() {
                if !Self(inner.clone()).grow_once() {
                    inner.growing.store(false, Ordering::Release);
                    // What was applied since the last look has found `growing` set.
                    Self(inner).grow();
                    return;
                }
            }
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "the graph of a vector index cannot grow: queries compare all vectors");
            self.0.growing.store(false, Ordering::Release);
        }
    }

    /// Adds a batch to the graph; false when nothing is left to add. Nobody else changes the graph, but whoever follows
    /// may put another view in the place of the one that was planned for.
    fn grow_once(&self) -> bool {
        let planned = self.see(|view| {
            view.is_behind().then(|| view.graph.plan(&view.space)).flatten().map(|plan| (view.number, plan))
        });
        let Some((number, plan)) = planned else { return false };
        self.change(|view| {
            if view.number == number {
                view.graph.apply(plan);
            }
        });
        true
    }

    fn find(&self, connection: &Connection, vector: Vec<f32>, options: &Options) -> Result<Value> {
        self.follow(connection)?;
        let properties = match options.metadata {
            Retrieval::Indexed => self.sql(store::properties(connection))?,
            _ => Vec::new(),
        };
        let metric = self.0.config.metric;
        let found: Vec<(String, Near)> = self.see(|view| {
            let query = view.space.prepared(vector);
            let near = view.search(&query, options, &self.0.name)?;
            Ok::<_, VectorizeError>(near.into_iter().map(|near| (view.id(near.slot).to_owned(), near)).collect())
        })?;
        let mut matches = Vec::with_capacity(found.len());
        for (id, near) in found {
            // What another mutation has added since this reader began is left to the next query.
            let Some(row) = self.sql(store::get(connection, &id))? else { continue };
            let mut entry = Map::new();
            entry.insert("id".to_owned(), id.into());
            entry.insert("score".to_owned(), f64::from(metric.score(near.distance)).into());
            entry.extend(self.parts(&row, options.values, options.metadata, &properties)?);
            matches.push(Value::Object(entry));
        }
        Ok(json!({ "count": matches.len(), "matches": matches }))
    }

    /// What is returned of a vector besides its id and score.
    fn parts(
        &self,
        row: &Row,
        values: bool,
        metadata: Retrieval,
        properties: &[(String, PropertyKind)],
    ) -> Result<Map<String, Value>> {
        let mut parts = Map::new();
        if values {
            let values: Vec<Value> = self.values(row)?.into_iter().map(|value| f64::from(value).into()).collect();
            parts.insert("values".to_owned(), values.into());
        }
        if let Some(namespace) = &row.namespace {
            parts.insert("namespace".to_owned(), namespace.clone().into());
        }
        let object = row.metadata.as_deref().and_then(object);
        match (metadata, object) {
            (Retrieval::All, Some(object)) => {
                parts.insert("metadata".to_owned(), Value::Object(object));
            }
            (Retrieval::Indexed, Some(object)) => {
                parts.insert("metadata".to_owned(), Value::Object(indexed_part(&object, properties)));
            }
            _ => {}
        }
        Ok(parts)
    }

    fn values(&self, row: &Row) -> Result<Vec<f32>> {
        store::floats(&row.vector, self.0.config.dimensions).ok_or_else(|| {
            let reason = format!("the vector {} has other dimensions", quoted(&row.id));
            VectorizeError::State(StateError::Damaged { path: self.path().to_owned(), reason })
        })
    }
}

fn object(json: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(json).ok()
}
