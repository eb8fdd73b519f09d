//! JSON read strictly: no key twice, and fields that say where they stand when they are wrong.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::ModelError;

/// A JSON value none of whose objects has a key twice.
pub(crate) struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if object.contains_key(&key) {
                return Err(de::Error::custom(format!("key '{}' twice", clip(&key))));
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

/// Parses a JSON object; no object within may have a key twice.
pub(crate) fn parse_object(text: &str, path: &Path) -> Result<Map<String, Value>, ModelError> {
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(Value::Object(object))) => Ok(object),
        Ok(Strict(other)) => Err(ModelError::file(path, show(&other), "a JSON object")),
        Err(e) => Err(ModelError::file(
            path,
            format!("invalid JSON ({e})"),
            "a JSON object",
        )),
    }
}

/// The fields of one object in a file, read with checks.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// Dotted name of the object itself, empty for the outermost.
    within: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, within: &'a str, object: &'a Map<String, Value>) -> Self {
        Fields {
            path,
            within,
            object,
        }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// An error about field `name`.
    pub(crate) fn wrong(&self, name: &str, expected: impl Into<String>) -> ModelError {
        let field = match self.within {
            "" => name.to_owned(),
            within => format!("{within}.{name}"),
        };
        ModelError::Field {
            path: self.path.to_owned(),
            field,
            found: self.object.get(name).map_or("nothing".to_owned(), show),
            expected: expected.into(),
        }
    }

    /// The field, unless it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|v| !v.is_null())
    }

    pub(crate) fn optional_size(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(
                name,
                format!("a whole number from {} to {}", range.start(), range.end()),
            )),
        }
    }

    pub(crate) fn size(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ModelError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.optional_size(name, range)?
            .ok_or_else(|| self.wrong(name, expected))
    }

    /// A number in `range`, as JSON and Python give it.
    pub(crate) fn optional_number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(x) if range.contains(&x) => Ok(Some(x)),
            _ => Err(self.wrong(
                name,
                format!("a number from {:e} to {:e}", range.start(), range.end()),
            )),
        }
    }

    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<f64, ModelError> {
        let expected = format!("a number from {:e} to {:e}", range.start(), range.end());
        self.optional_number(name, range)?
            .ok_or_else(|| self.wrong(name, expected))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }
}

/// A value as an error message quotes it.
pub(crate) fn show(value: &Value) -> String {
    clip(&value.to_string())
}

/// The beginning of a string that may be arbitrarily long, control characters escaped.
pub(crate) fn clip(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.chars().take(MOST).flat_map(escape_control).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}

fn escape_control(c: char) -> Vec<char> {
    if c.is_control() {
        c.escape_default().collect()
    } else {
        vec![c]
    }
}
