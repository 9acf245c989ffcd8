//! JSON as values of CEL.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel::common::value::Val;
use serde_json::{Map, Number, Value};

/// A value that borrows nothing.
pub(super) type Boxed = Box<dyn Val>;

/// The value of a JSON text that is known to be plain: each key once.
pub(super) fn of_json(json: &Value) -> Boxed {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => of_number(number),
        Value::String(text) => Box::new(CelString::from(text.clone())),
        Value::Array(items) => of_list(items.iter().map(of_json).collect()),
        Value::Object(map) => of_object(map),
    }
}

pub(super) fn of_object(map: &Map<String, Value>) -> Boxed {
    of_map(map.iter().map(|(key, value)| (key.clone(), of_json(value))).collect())
}

pub(super) fn of_map(entries: Vec<(String, Boxed)>) -> Boxed {
    let entries = entries.into_iter().map(|(key, value)| (CelMapKey::from(key), value));
    Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
}

pub(super) fn of_list(items: Vec<Boxed>) -> Boxed {
    Box::new(CelList::from(items))
}

pub(super) fn of_text(text: &str) -> Boxed {
    Box::new(CelString::from(text.to_owned()))
}

fn of_number(number: &Number) -> Boxed {
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => Box::new(CelInt::from(number)),
        (None, Some(number)) => Box::new(CelUInt::from(number)),
        (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
    }
}
