//! What `serde_json` and `simd-json` make of a body, and the rules of the peek written a second time, naively.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use simd_json::prelude::{ValueAsScalar, ValueObjectAccess, ValueObjectAccessAsScalar};
use std::collections::BTreeSet;
use std::fmt;
use toolgate::jsonrpc::{Claim, DEPTH_MAX, Envelope, FaultClass, Kind, PARSE_ERROR, Text, peek};

/// Peeks at a body and panics if another reader disagrees; says how the body was judged.
pub(crate) fn judge(body: &[u8]) -> Result<(), FaultClass> {
    let expected = faults(body);
    match peek(body) {
        Ok(envelope) => {
            assert!(expected.is_empty(), "accepted, but {expected:?}: {}", shown(body));
            agrees_with_serde_json(body, &envelope);
            agrees_with_simd_json(body, &envelope);
            Ok(())
        }
        Err(fault) => {
            assert!(
                expected.contains(&fault.class),
                "{fault:?}, but {expected:?}: {}",
                shown(body)
            );
            assert!(fault.offset <= body.len());
            let id = fault.id.map(|id| id.raw());
            if ends_the_scan(fault.class) {
                assert!(
                    id.is_none_or(|id| body.windows(id.len()).any(|part| part == id.as_bytes()))
                );
            } else {
                assert_eq!(
                    id,
                    std::str::from_utf8(body).ok().and_then(unambiguous_id),
                    "{}",
                    shown(body)
                );
            }
            if fault.code() == PARSE_ERROR {
                assert!(
                    simd_json::to_tape(&mut body.to_vec()).is_err(),
                    "simd-json accepts: {}",
                    shown(body)
                );
            }
            Err(fault.class)
        }
    }
}

fn shown(body: &[u8]) -> String {
    body.escape_ascii().to_string()
}

fn ends_the_scan(class: FaultClass) -> bool {
    class.code() == PARSE_ERROR || class == FaultClass::TooDeep
}

// ---- What serde_json reads with typed structs, which refuse duplicates by themselves ----

#[derive(serde::Deserialize)]
struct Typed<'a> {
    jsonrpc: String,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<TypedParams<'a>>,
    result: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypedParams<'a> {
    name: Option<String>,
    uri: Option<String>,
    task_id: Option<String>,
    r#ref: Option<TypedReference>,
    protocol_version: Option<String>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow)]
    meta: Option<TypedMeta<'a>>,
    #[serde(rename = "arguments")]
    _arguments: Option<IgnoredAny>,
    #[serde(rename = "cursor")]
    _cursor: Option<IgnoredAny>,
    #[serde(rename = "inputResponses")]
    _input_responses: Option<IgnoredAny>,
    #[serde(rename = "requestState")]
    _request_state: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct TypedReference {
    r#type: Option<String>,
    name: Option<String>,
    uri: Option<String>,
}

#[derive(Default, serde::Deserialize)]
struct TypedMeta<'a> {
    #[serde(rename = "progressToken", borrow)]
    progress_token: Option<&'a RawValue>,
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    protocol_version: Option<String>,
    // A field that is `null` must still be there, which an option of anything but raw bytes hides.
    #[serde(
        rename = "io.modelcontextprotocol/clientCapabilities",
        default,
        borrow,
        deserialize_with = "present"
    )]
    client_capabilities: Option<&'a RawValue>,
    #[serde(
        rename = "io.modelcontextprotocol/clientInfo",
        default,
        borrow,
        deserialize_with = "present"
    )]
    client_info: Option<&'a RawValue>,
    #[serde(
        rename = "io.modelcontextprotocol/logLevel",
        default,
        borrow,
        deserialize_with = "present"
    )]
    log_level: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn agrees_with_serde_json(body: &[u8], envelope: &Envelope<'_>) {
    let typed: Typed<'_> = match serde_json::from_slice(body) {
        Ok(typed) => typed,
        Err(error) => panic!("serde_json refuses ({error}): {}", shown(body)),
    };
    let is_same = |text: Option<&Text<'_>>, other: &Option<String>| {
        text.map(Text::as_str) == other.as_deref()
    };
    let raw = |value: Option<&RawValue>| value.map(|value| value.get().to_owned());
    assert_eq!(typed.jsonrpc, "2.0");
    assert!(is_same(envelope.method(), &typed.method), "{}", shown(body));
    assert_eq!(
        envelope.id().map(|id| id.raw().to_owned()),
        raw(typed.id).filter(|id| id != "null")
    );
    let answers = typed.result.is_some() || typed.error.is_some();
    match envelope.kind {
        Kind::Request { .. } => assert!(typed.method.is_some() && typed.id.is_some() && !answers),
        Kind::Notification { .. } => {
            assert!(typed.method.is_some() && typed.id.is_none() && !answers)
        }
        Kind::Response { .. } => assert!(typed.method.is_none() && answers),
    }
    let (params, other) = (&envelope.params, typed.params.unwrap_or_default());
    for (text, other) in [
        (&params.name, &other.name),
        (&params.uri, &other.uri),
        (&params.task_id, &other.task_id),
        (&params.protocol_version, &other.protocol_version),
    ] {
        assert!(is_same(text.as_ref(), other), "{}", shown(body));
        if let Some(text) = text {
            let literal: String = serde_json::from_slice(&body[text.span()]).unwrap_or_default();
            assert_eq!(text, literal.as_str(), "the span is not the literal: {}", shown(body));
        }
    }
    assert_eq!(params.request_id.map(|id| id.raw().to_owned()), raw(other.request_id));
    assert_eq!(params.reference.is_some(), other.r#ref.is_some());
    if let (Some(reference), Some(other)) = (&params.reference, &other.r#ref) {
        assert!(is_same(reference.kind.as_ref(), &other.r#type), "{}", shown(body));
        assert!(is_same(reference.name.as_ref(), &other.name), "{}", shown(body));
        assert!(is_same(reference.uri.as_ref(), &other.uri), "{}", shown(body));
    }
    let (meta, other) = (&params.meta, other.meta.unwrap_or_default());
    assert_eq!(meta.progress_token.map(|token| token.raw().to_owned()), raw(other.progress_token));
    assert!(is_same(meta.protocol_version.as_ref(), &other.protocol_version), "{}", shown(body));
    for (claim, other) in [
        (meta.client_capabilities, other.client_capabilities),
        (meta.client_info, other.client_info),
        (meta.log_level, other.log_level),
    ] {
        let expected = match other.map(RawValue::get) {
            None => Claim::Absent,
            Some(value) if value.starts_with('{') => Claim::Object,
            Some(_) => Claim::NotObject,
        };
        assert_eq!(claim, expected, "{}", shown(body));
    }
}

fn agrees_with_simd_json(body: &[u8], envelope: &Envelope<'_>) {
    let mut copy = body.to_vec();
    let Ok(tree) = simd_json::to_borrowed_value(&mut copy) else {
        // It alone refuses lone surrogates in values nobody reads, and numbers it cannot hold.
        let has_surrogate = body.windows(3).any(|part| part.eq_ignore_ascii_case(b"\\ud"));
        let has_number = body.windows(18).any(|part| part.iter().all(u8::is_ascii_digit))
            || body
                .windows(2)
                .any(|part| part[0].is_ascii_digit() && part[1].eq_ignore_ascii_case(&b'e'));
        assert!(has_surrogate || has_number, "simd-json refuses: {}", shown(body));
        return;
    };
    assert_eq!(envelope.method().map(Text::as_str), tree.get_str("method"), "{}", shown(body));
    let params = tree.get("params");
    for (key, text) in [
        ("name", &envelope.params.name),
        ("uri", &envelope.params.uri),
        ("taskId", &envelope.params.task_id),
        ("protocolVersion", &envelope.params.protocol_version),
    ] {
        assert_eq!(
            text.as_ref().map(Text::as_str),
            params.and_then(|params| params.get_str(key)),
            "{}",
            shown(body)
        );
    }
    let claimed = params.and_then(|params| {
        params.get("_meta")?.get("io.modelcontextprotocol/protocolVersion")?.as_str()
    });
    assert_eq!(
        envelope.params.meta.protocol_version.as_ref().map(Text::as_str),
        claimed,
        "{}",
        shown(body)
    );
}

// ---- The rules once more, over a list of members that keeps everything ----

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
fn faults(body: &[u8]) -> BTreeSet<FaultClass> {
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
        Some(params) if params.starts_with('{') => params_faults(params, found),
        Some(_) => _ = found.insert(FaultClass::BadParams),
        None => {}
    }
    if found.is_empty() {
        found.extend(kind_fault(&message));
    }
}

fn params_faults(params: &str, found: &mut BTreeSet<FaultClass>) {
    let params = Level::read(params, PARAMS, found);
    for key in ["name", "uri", "taskId", "protocolVersion"] {
        if let Some(value) = params.get(key) {
            string_fault(value, FaultClass::BadParam, found);
        }
    }
    if let Some(value) = params.get("requestId") {
        token_fault(value, FaultClass::BadParam, found);
    }
    for (key, keys) in [("_meta", META), ("ref", REFERENCE)] {
        let Some(value) = params.get(key) else { continue };
        if !value.starts_with('{') {
            found.insert(FaultClass::BadParam);
            continue;
        }
        let nested = Level::read(value, keys, found);
        for key in ["type", "name", "uri", "io.modelcontextprotocol/protocolVersion"] {
            if let Some(value) = nested.get(key) {
                string_fault(value, FaultClass::BadParam, found);
            }
        }
        if let Some(value) = nested.get("progressToken") {
            token_fault(value, FaultClass::BadParam, found);
        }
    }
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
fn unambiguous_id(text: &str) -> Option<&str> {
    let text = text.trim();
    let message =
        text.starts_with('{').then(|| Level::read(text, MESSAGE, &mut BTreeSet::new()))?;
    let mut found = BTreeSet::new();
    let id = message.get("id").filter(|_| !message.ambiguous.contains("id"))?;
    token_fault(id, FaultClass::BadId, &mut found);
    found.is_empty().then_some(id)
}
