//! Requests as JSON, checked whole before anything is done. Messages say which vector and which key.

use serde_json::{Map, Value};

use crate::error::{VectorizeError, codes, quoted};
use crate::filter::Filter;
use crate::limits::{DEFAULT_TOP_K, MAX_GET, MAX_ID_BYTES, MAX_NAMESPACE_BYTES, MAX_TOP_K, MAX_TOP_K_WHOLE};
use crate::metadata;

/// A vector to keep, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vector {
    pub(crate) id: String,
    pub(crate) values: Vec<f32>,
    pub(crate) namespace: Option<String>,
    /// Compact JSON of an object.
    pub(crate) metadata: Option<String>,
}

/// What a query returns of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retrieval {
    None,
    Indexed,
    All,
}

/// How to query, checked.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) top_k: usize,
    pub(crate) namespace: Option<String>,
    pub(crate) values: bool,
    pub(crate) metadata: Retrieval,
    pub(crate) filter: Option<Filter>,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn parse_fault(message: String) -> VectorizeError {
    VectorizeError::coded(codes::PARSE_VECTORS, format!("failed to parse vectors: {message}"))
}

/// Reads the vectors of an insert or upsert: all of them, or none.
pub(crate) fn vectors(vectors: Value, dimensions: usize, most: usize) -> Result<Vec<Vector>, VectorizeError> {
    let Value::Array(items) = vectors else {
        return Err(parse_fault(format!("expected an array of vectors, got {}", kind(&vectors))));
    };
    if items.is_empty() {
        return Err(parse_fault("expected at least one vector, got an empty array".to_owned()));
    }
    if items.len() > most {
        let message = format!("too many vectors in payload; max vector count is {most}, got {}", items.len());
        return Err(VectorizeError::coded(codes::TOO_MANY, message));
    }
    items.into_iter().enumerate().map(|(index, item)| vector(index, item, dimensions)).collect()
}

fn vector(index: usize, item: Value, dimensions: usize) -> Result<Vector, VectorizeError> {
    let Value::Object(mut object) = item else {
        return Err(parse_fault(format!("vectors[{index}]: expected an object, got {}", kind(&item))));
    };
    let id = match object.remove("id") {
        Some(Value::String(id)) => id,
        other => {
            let found = other.as_ref().map_or("nothing", kind);
            return Err(parse_fault(format!("vectors[{index}].id: expected a string, got {found}")));
        }
    };
    check_id(&id, &|| format!("vectors[{index}].id: "))?;
    let values = match object.remove("values") {
        Some(Value::Array(values)) => values,
        other => {
            let found = other.as_ref().map_or("nothing", kind);
            let message = format!("vectors[{index}].values: expected an array of numbers, got {found}");
            return Err(parse_fault(message));
        }
    };
    if values.len() != dimensions {
        let message = format!(
            "invalid vector for id={}, expected {dimensions} dimensions, and got {} dimensions",
            quoted(&id),
            values.len()
        );
        return Err(VectorizeError::coded(codes::VECTOR_DIMENSIONS, message));
    }
    let values = numbers(&values, |at, found| {
        let id = quoted(&id);
        parse_fault(format!("vectors[{index}].values[{at}] (id={id}): expected a finite number, got {found}"))
    })?;
    let namespace = namespace(object.remove("namespace"), &|| format!("vectors[{index}].namespace"))?;
    let metadata = match object.remove("metadata") {
        None | Some(Value::Null) => None,
        Some(Value::Object(metadata)) => {
            let place = || format!("vectors[{index}].metadata (id={})", quoted(&id));
            Some(metadata::check(&metadata, &place)?)
        }
        Some(other) => {
            let message = format!("vectors[{index}].metadata: expected an object, got {}", kind(&other));
            return Err(parse_fault(message));
        }
    };
    Ok(Vector { id, values, namespace, metadata })
}

/// Numbers as float32. JSON has no NaN and no infinity: a script's become `null`.
fn numbers(values: &[Value], fault: impl Fn(usize, String) -> VectorizeError) -> Result<Vec<f32>, VectorizeError> {
    let number = |(at, value): (usize, &Value)| {
        let number = value.as_f64().ok_or_else(|| {
            let null = if value.is_null() { " (as which NaN and infinity arrive)" } else { "" };
            fault(at, format!("{}{null}", kind(value)))
        })?;
        let float = number as f32;
        if float.is_finite() { Ok(float) } else { Err(fault(at, format!("{number}, which no float32 holds"))) }
    };
    values.iter().enumerate().map(number).collect()
}

fn check_id(id: &str, place: &dyn Fn() -> String) -> Result<(), VectorizeError> {
    let message = match id.len() {
        0 => format!("{}id must not be empty", place()),
        bytes if bytes > MAX_ID_BYTES => {
            format!("{}id too long; max is {MAX_ID_BYTES} bytes, got {bytes} bytes", place())
        }
        _ => return Ok(()),
    };
    Err(VectorizeError::coded(codes::ID, message))
}

fn namespace(value: Option<Value>, place: &dyn Fn() -> String) -> Result<Option<String>, VectorizeError> {
    let namespace = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(namespace)) => namespace,
        Some(other) => {
            let message = format!("{}: expected a string, got {}", place(), kind(&other));
            return Err(parse_fault(message));
        }
    };
    match namespace.len() {
        0 => Err(VectorizeError::invalid(format!("{}: must not be empty; leave it out instead", place()))),
        bytes if bytes > MAX_NAMESPACE_BYTES => {
            let message = format!("{}: too long; max is {MAX_NAMESPACE_BYTES} bytes, got {bytes} bytes", place());
            Err(VectorizeError::invalid(message))
        }
        _ => Ok(Some(namespace)),
    }
}

/// Reads a list of ids: at most `most`, and at least one.
pub(crate) fn ids(ids: Value, most: usize) -> Result<Vec<String>, VectorizeError> {
    let fault = |message: String| VectorizeError::invalid(format!("failed to parse ids: {message}"));
    let Value::Array(items) = ids else {
        return Err(fault(format!("expected an array of ids, got {}", kind(&ids))));
    };
    if items.is_empty() {
        return Err(fault("expected at least one id, got an empty array".to_owned()));
    }
    if items.len() > most {
        let message = format!("too many ids in payload; max id count is {most}, got {}", items.len());
        return Err(VectorizeError::coded(codes::TOO_MANY, message));
    }
    let id = |(index, item): (usize, Value)| match item {
        Value::String(id) => {
            check_id(&id, &|| format!("ids[{index}]: "))?;
            Ok(id)
        }
        other => Err(fault(format!("ids[{index}]: expected a string, got {}", kind(&other)))),
    };
    items.into_iter().enumerate().map(id).collect()
}

/// Ids of one look-up.
pub(crate) fn get_ids(value: Value) -> Result<Vec<String>, VectorizeError> {
    ids(value, MAX_GET)
}

/// The id whose vector is the query.
pub(crate) fn query_id(value: &Value) -> Result<String, VectorizeError> {
    match value {
        Value::String(id) => check_id(id, &|| "vectorId: ".to_owned()).map(|()| id.clone()),
        other => {
            let message = format!("vectorId: expected a string, got {}", kind(other));
            Err(VectorizeError::coded(codes::PARSE_QUERY, message))
        }
    }
}

/// The vector of a query.
pub(crate) fn query_vector(value: &Value, dimensions: usize) -> Result<Vec<f32>, VectorizeError> {
    let Value::Array(values) = value else {
        let message = format!("vector: expected an array of numbers, got {}", kind(value));
        return Err(VectorizeError::coded(codes::PARSE_QUERY, message));
    };
    if values.len() != dimensions {
        let message =
            format!("invalid query vector, expected {dimensions} dimensions, and got {} dimensions", values.len());
        return Err(VectorizeError::coded(codes::QUERY_DIMENSIONS, message));
    }
    numbers(values, |at, found| {
        VectorizeError::coded(codes::PARSE_QUERY, format!("vector[{at}]: expected a finite number, got {found}"))
    })
}

impl Options {
    /// Reads the options of a query. Keys that are not known are passed over, as the types let them.
    pub(crate) fn parse(value: &Value) -> Result<Self, VectorizeError> {
        let fault = |message: String| VectorizeError::coded(codes::PARSE_QUERY, message);
        let none = Map::new();
        let object = match value {
            Value::Null => &none,
            Value::Object(object) => object,
            other => return Err(fault(format!("options: expected an object, got {}", kind(other)))),
        };
        let set = |key: &str| object.get(key).filter(|value| !value.is_null());
        let values = match set("returnValues") {
            None => false,
            Some(Value::Bool(values)) => *values,
            Some(other) => return Err(fault(format!("returnValues: expected a boolean, got {}", kind(other)))),
        };
        let metadata = match set("returnMetadata") {
            None | Some(Value::Bool(false)) => Retrieval::None,
            Some(Value::Bool(true)) => Retrieval::All,
            Some(Value::String(level)) if level == "none" => Retrieval::None,
            Some(Value::String(level)) if level == "indexed" => Retrieval::Indexed,
            Some(Value::String(level)) if level == "all" => Retrieval::All,
            Some(other) => {
                let found = other.as_str().map_or_else(|| kind(other).to_owned(), quoted);
                let message = format!(
                    "Invalid returnMetadata option. Expected: true, false, \"none\", \"indexed\" or \"all\"; got: {found}"
                );
                return Err(fault(message));
            }
        };
        let top_k = match set("topK") {
            None => DEFAULT_TOP_K,
            Some(value) => {
                let whole = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 1.0);
                let number =
                    whole.ok_or_else(|| fault(format!("topK: expected a whole number from 1, got {value}")))?;
                top_k(number, values || metadata == Retrieval::All)?
            }
        };
        let namespace = namespace(object.get("namespace").cloned(), &|| "namespace".to_owned())?;
        let filter = set("filter").map(Filter::parse).transpose()?;
        Ok(Self { top_k, namespace, values, metadata, filter })
    }
}

fn top_k(number: f64, whole: bool) -> Result<usize, VectorizeError> {
    let message = if whole && number > MAX_TOP_K_WHOLE as f64 {
        format!(
            "with returnValues=true or returnMetadata=all, max top K is {MAX_TOP_K_WHOLE}, but got {number}; for a top K \
             up to {MAX_TOP_K}, retry with returnValues=false and returnMetadata=indexed"
        )
    } else if number > MAX_TOP_K as f64 {
        format!("max top K is {MAX_TOP_K}, but got {number}")
    } else {
        return Ok(number as usize);
    };
    Err(VectorizeError::coded(codes::TOP_K, message))
}
