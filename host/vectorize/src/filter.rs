//! Filters: which slots a query may find, as sets, before anything is compared.
//!
//! A vector without the property is one that is not equal: `$ne` and `$nin` find it, and so does a comparison with
//! `null`. A value of another type than that of the metadata index is never equal, smaller or greater.

use std::ops::Bound;

use roaring::{MultiOps as _, RoaringBitmap};
use serde_json::{Map, Value};

use crate::error::{VectorizeError, codes, quoted};
use crate::limits::{MAX_FILTER_BYTES, MAX_KEY_BYTES};
use crate::metadata::{Key, Property};

/// A filter that was read: all of its conditions hold.
#[derive(Debug, Clone)]
pub(crate) struct Filter(Vec<Condition>);

#[derive(Debug, Clone)]
struct Condition {
    property: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    /// One of these values; none stands for `null`.
    In(Vec<Option<Key>>),
    NotIn(Vec<Option<Key>>),
    Range(Bound<Key>, Bound<Key>),
}

fn fault(message: String) -> VectorizeError {
    VectorizeError::coded(codes::PARSE_QUERY, format!("invalid filter: {message}"))
}

impl Filter {
    /// Reads a filter as a query gives it.
    pub(crate) fn parse(filter: &Value) -> Result<Self, VectorizeError> {
        let Value::Object(object) = filter else { return Err(fault("expected an object".to_owned())) };
        if object.is_empty() {
            return Err(fault("must not be empty".to_owned()));
        }
        let bytes = filter.to_string().len();
        if bytes >= MAX_FILTER_BYTES {
            let message = format!("its compact JSON must be less than {MAX_FILTER_BYTES} bytes, got {bytes}");
            return Err(fault(message));
        }
        let mut conditions = Vec::new();
        for (property, test) in object {
            check_key(property)?;
            match test {
                Value::Object(operators) => operators_of(property, operators, &mut conditions)?,
                value => conditions.push(Condition {
                    property: property.clone(),
                    test: Test::In(vec![operand(property, "$eq", value)?]),
                }),
            }
        }
        Ok(Self(conditions))
    }

    /// The slots of `live` for which every condition holds.
    pub(crate) fn select(
        &self,
        properties: &[Property],
        live: &RoaringBitmap,
        index: &str,
    ) -> Result<RoaringBitmap, VectorizeError> {
        let mut selected: Option<RoaringBitmap> = None;
        for condition in &self.0 {
            let property = properties.iter().find(|property| property.name == condition.property).ok_or_else(|| {
                let name = &condition.property;
                fault(format!(
                    "{} has no metadata index; create one with `host vectorize create-metadata-index {index} \
                     --property-name={name} --type=string` (or number, or boolean)",
                    quoted(name)
                ))
            })?;
            let slots = condition.test.select(property, live);
            selected = Some(match selected {
                Some(selected) => selected & slots,
                None => slots,
            });
        }
        Ok(selected.unwrap_or_default() & live)
    }
}

impl Test {
    fn select(&self, property: &Property, live: &RoaringBitmap) -> RoaringBitmap {
        match self {
            Self::In(values) => Self::any(values, property, live),
            Self::NotIn(values) => live - Self::any(values, property, live),
            Self::Range(from, to) if empty(from, to) => RoaringBitmap::new(),
            Self::Range(from, to) => {
                let of_kind = |key: &Key| key.kind() == property.kind;
                let range = property.slots.range((from.as_ref(), to.as_ref()));
                range.filter(|(key, _)| of_kind(key)).map(|(_, slots)| slots).union()
            }
        }
    }

    fn any(values: &[Option<Key>], property: &Property, live: &RoaringBitmap) -> RoaringBitmap {
        let mut found: RoaringBitmap = values.iter().flatten().filter_map(|key| property.slots.get(key)).union();
        if values.iter().any(Option::is_none) {
            let with: RoaringBitmap = property.slots.values().union();
            found |= live - with;
        }
        found
    }
}

/// Whether no key can lie between the two, which the map would not look up.
fn empty(from: &Bound<Key>, to: &Bound<Key>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

fn check_key(key: &str) -> Result<(), VectorizeError> {
    let wrong = key.is_empty()
        || key.starts_with('$')
        || key.contains(['"', '|'])
        || key.split('.').any(str::is_empty)
        || key.chars().count() > MAX_KEY_BYTES;
    if wrong {
        let message = format!(
            "the key {} must not be empty, start with `$`, contain `\"` or `|`, have an empty part between dots, or be \
             longer than {MAX_KEY_BYTES} characters",
            quoted(key)
        );
        return Err(fault(message));
    }
    Ok(())
}

fn operators_of(
    property: &str,
    operators: &Map<String, Value>,
    conditions: &mut Vec<Condition>,
) -> Result<(), VectorizeError> {
    if operators.is_empty() {
        return Err(fault(format!("{} has no operator", quoted(property))));
    }
    for (operator, value) in operators {
        let one = || operand(property, operator, value);
        let bound = || match operand(property, operator, value)? {
            Some(key) => Ok(key),
            None => Err(fault(format!("{}: {operator} cannot compare with null", quoted(property)))),
        };
        let test = match operator.as_str() {
            "$eq" => Test::In(vec![one()?]),
            "$ne" => Test::NotIn(vec![one()?]),
            "$in" => Test::In(list(property, operator, value)?),
            "$nin" => Test::NotIn(list(property, operator, value)?),
            "$lt" => Test::Range(Bound::Unbounded, Bound::Excluded(bound()?)),
            "$lte" => Test::Range(Bound::Unbounded, Bound::Included(bound()?)),
            "$gt" => Test::Range(Bound::Excluded(bound()?), Bound::Unbounded),
            "$gte" => Test::Range(Bound::Included(bound()?), Bound::Unbounded),
            other => {
                let message = format!(
                    "{} has the unknown operator {}; there are $eq, $ne, $lt, $lte, $gt, $gte, $in and $nin, and nested \
                     keys are written with dots",
                    quoted(property),
                    quoted(other)
                );
                return Err(fault(message));
            }
        };
        conditions.push(Condition { property: property.to_owned(), test });
    }
    Ok(())
}

/// A value to compare with; none for `null`.
fn operand(property: &str, operator: &str, value: &Value) -> Result<Option<Key>, VectorizeError> {
    match (Key::of(value), value) {
        (Some(key), _) => Ok(Some(key)),
        (None, Value::Null) => Ok(None),
        _ => Err(fault(format!("{}: {operator} takes a string, a number, a boolean or null", quoted(property)))),
    }
}

fn list(property: &str, operator: &str, value: &Value) -> Result<Vec<Option<Key>>, VectorizeError> {
    let Value::Array(items) = value else {
        return Err(fault(format!("{}: {operator} takes an array", quoted(property))));
    };
    items.iter().map(|item| operand(property, operator, item)).collect()
}
