//! The rules of the peek written a second time, naively, over lists of members that keep everything.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt;
use toolgate::jsonrpc::{DEPTH_MAX, FaultClass};

const MESSAGE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: &[&str] = &[
    "name",
    "uri",
    "taskId",
    "ref",
    "protocolVersion",
    "requestId",
    "_meta",
    "arguments",
    "inputResponses",
    "requestState",
    "cursor",
];
const META: &[&str] = &[
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
];
const REFERENCE: &[&str] = &["type", "name", "uri"];

struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Every class that would be a right refusal; none if the body must be accepted.
pub(crate) fn faults(body: &[u8]) -> BTreeSet<FaultClass> {
    let lossy = String::from_utf8_lossy(body);
    let is_utf8 = std::str::from_utf8(body).is_ok();
    let is_json = serde_json::from_str::<IgnoredAny>(&lossy).is_ok();
    let is_deep = depth(body) > DEPTH_MAX;
    let mut found = BTreeSet::new();
    if body.starts_with("\u{feff}".as_bytes()) {
        found.insert(FaultClass::ByteOrderMark);
        return found;
    }
    if is_deep {
        found.insert(FaultClass::TooDeep);
    }
    if !is_utf8 {
        found.insert(FaultClass::InvalidUtf8);
    }
    if !is_json {
        use FaultClass::{BadNumber, BadString, Syntax, TrailingBytes, Truncated};
        found.extend([Syntax, Truncated, TrailingBytes, BadNumber, BadString]);
    }
    if found.is_empty() {
        message_faults(lossy.trim(), &mut found);
    }
    found
}

fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0usize, 0, false);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => _ = bytes.next(),
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The first value of each key that is read, and whether the key is unambiguous.
struct Level<'a> {
    values: Vec<(&'static str, &'a str)>,
    ambiguous: BTreeSet<&'static str>,
}

impl<'a> Level<'a> {
    fn read(object: &'a str, keys: &[&'static str], found: &mut BTreeSet<FaultClass>) -> Self {
        let mut level = Self { values: Vec::new(), ambiguous: BTreeSet::new() };
        let members =
            serde_json::from_str(object).map_or(Vec::new(), |members: Members<'a>| members.0);
        for (literal, value) in members {
            let Ok(decoded) = serde_json::from_str::<String>(literal.get()) else {
                found.insert(FaultClass::LoneSurrogate);
                continue;
            };
            let folded = folded(&decoded);
            let Some(name) = keys.iter().find(|name| name.to_ascii_lowercase() == folded) else {
                continue;
            };
            if *name != decoded {
                found.insert(FaultClass::KeyVariant);
                level.ambiguous.insert(name);
            } else if level.get(name).is_some() {
                found.insert(FaultClass::DuplicateKey);
                level.ambiguous.insert(name);
            } else {
                level.values.push((name, value.get()));
            }
        }
        level
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

fn folded(key: &str) -> String {
    let visible = key.split('\0').next().unwrap_or_default();
    visible
        .replace('\u{17f}', "s")
        .replace('\u{212a}', "k")
        .replace(['\u{130}', '\u{131}'], "i")
        .to_ascii_lowercase()
}

fn message_faults(text: &str, found: &mut BTreeSet<FaultClass>) {
    if !text.starts_with('{') {
        found.insert(if text.starts_with('[') {
            FaultClass::Batch
        } else {
            FaultClass::NotAnObject
        });
        return;
    }
    let message = Level::read(text, MESSAGE, found);
    if let Some(version) = message.get("jsonrpc") {
        string_fault(version, FaultClass::BadVersion, found);
        if serde_json::from_str::<String>(version).is_ok_and(|version| version != "2.0") {
            found.insert(FaultClass::BadVersion);
        }
    }
    if let Some(id) = message.get("id").filter(|id| *id != "null") {
        token_fault(id, FaultClass::BadId, found);
    }
    if let Some(method) = message.get("method") {
        string_fault(method, FaultClass::BadMethod, found);
    }
    for answer in ["result", "error"] {
        if message.get(answer).is_some_and(|value| !value.starts_with('{')) {
            found.insert(FaultClass::BadShape);
        }
    }
    match message.get("params") {
        Some(params) if params.starts_with('{') => {
            params_faults(params, message.get("method"), found)
        }
        Some(_) => _ = found.insert(FaultClass::BadParams),
        None => {}
    }
    if found.is_empty() {
        found.extend(kind_fault(&message));
    }
}

/// The methods that are routed by a key; to all others its value may be anything.
fn routed_methods(key: &str) -> &'static [&'static str] {
    match key {
        "name" => &["tools/call", "prompts/get"],
        "uri" => &["resources/read", "resources/subscribe", "resources/unsubscribe"],
        "taskId" => &["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"],
        "protocolVersion" => &["initialize"],
        "requestId" => &["notifications/cancelled"],
        _ => &["completion/complete"],
    }
}

fn params_faults(params: &str, method: Option<&str>, found: &mut BTreeSet<FaultClass>) {
    let method: String = method.and_then(|m| serde_json::from_str(m).ok()).unwrap_or_default();
    let routes = |key: &str| routed_methods(key).contains(&method.as_str());
    let params = Level::read(params, PARAMS, found);
    for key in ["name", "uri", "taskId", "protocolVersion"].into_iter().filter(|key| routes(key)) {
        if let Some(value) = params.get(key) {
            string_fault(value, FaultClass::BadParam, found);
        }
    }
    if let Some(value) = params.get("requestId").filter(|_| routes("requestId")) {
        token_fault(value, FaultClass::BadParam, found);
    }
    if let Some(value) = params.get("ref") {
        let reference = Level::read(value, REFERENCE, found);
        if routes("ref") {
            if !value.starts_with('{') {
                found.insert(FaultClass::BadParam);
            }
            for (_, value) in reference.values {
                string_fault(value, FaultClass::BadParam, found);
            }
        }
    }
    if let Some(value) = params.get("_meta") {
        if !value.starts_with('{') {
            found.insert(FaultClass::BadParam);
        }
        let meta = Level::read(value, META, found);
        if let Some(value) = meta.get("io.modelcontextprotocol/protocolVersion") {
            string_fault(value, FaultClass::BadParam, found);
        }
        if let Some(value) = meta.get("progressToken") {
            token_fault(value, FaultClass::BadParam, found);
        }
    }
}

pub(crate) fn is_token(value: &str) -> bool {
    let mut found = BTreeSet::new();
    token_fault(value, FaultClass::BadParam, &mut found);
    found.is_empty()
}

fn string_fault(value: &str, otherwise: FaultClass, found: &mut BTreeSet<FaultClass>) {
    if !value.starts_with('"') {
        found.insert(otherwise);
    } else if serde_json::from_str::<String>(value).is_err() {
        found.insert(FaultClass::LoneSurrogate);
    }
}

fn token_fault(value: &str, otherwise: FaultClass, found: &mut BTreeSet<FaultClass>) {
    let is_integer = value.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    if !is_integer {
        string_fault(value, otherwise, found);
    }
}

fn kind_fault(message: &Level<'_>) -> Option<FaultClass> {
    let has = |key| message.get(key).is_some();
    let has_null_id = message.get("id") == Some("null");
    if !has("jsonrpc") {
        return Some(FaultClass::BadVersion);
    }
    match (has("method"), has("result"), has("error")) {
        (true, false, false) if has_null_id => Some(FaultClass::BadId),
        (true, false, false) => None,
        (false, true, false) if has_null_id || !has("id") => Some(FaultClass::BadId),
        (false, true, false) | (false, false, true) => None,
        _ => Some(FaultClass::BadShape),
    }
}

/// The id that the answer to a refused message carries.
pub(crate) fn unambiguous_id(text: &str) -> Option<&str> {
    let text = text.trim();
    let message =
        text.starts_with('{').then(|| Level::read(text, MESSAGE, &mut BTreeSet::new()))?;
    message.get("id").filter(|id| !message.ambiguous.contains("id") && is_token(id))
}
