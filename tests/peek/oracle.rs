//! What `serde_json` and `simd-json` make of a body, beside what the peek makes of it.

use super::rules::{faults, is_token, unambiguous_id};
use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_json::value::RawValue;
use simd_json::prelude::{ValueAsScalar, ValueObjectAccess, ValueObjectAccessAsScalar};
use toolgate::jsonrpc::{Claim, Envelope, FaultClass, Kind, PARSE_ERROR, Text, peek};

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
    // What does not route the method may be anything.
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow)]
    task_id: Option<&'a RawValue>,
    #[serde(borrow)]
    r#ref: Option<&'a RawValue>,
    #[serde(borrow)]
    protocol_version: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow)]
    meta: Option<TypedMeta<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    arguments: Option<&'a RawValue>,
    #[serde(rename = "cursor")]
    _cursor: Option<IgnoredAny>,
    #[serde(rename = "inputResponses")]
    _input_responses: Option<IgnoredAny>,
    #[serde(rename = "requestState")]
    _request_state: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct TypedReference<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
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

fn string(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
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
        (&params.name, other.name),
        (&params.uri, other.uri),
        (&params.task_id, other.task_id),
        (&params.protocol_version, other.protocol_version),
    ] {
        assert!(is_same(text.as_ref(), &string(other)), "{}", shown(body));
        if let Some(text) = text {
            let literal: String = serde_json::from_slice(&body[text.span()]).unwrap_or_default();
            assert_eq!(text, literal.as_str(), "the span is not the literal: {}", shown(body));
        }
    }
    assert_eq!(params.arguments, other.arguments.map(RawValue::get), "{}", shown(body));
    let request_id = raw(other.request_id).filter(|value| is_token(value));
    assert_eq!(params.request_id.map(|id| id.raw().to_owned()), request_id);
    let other_ref = other.r#ref.map(RawValue::get).filter(|value| value.starts_with('{'));
    let other_ref: Option<TypedReference<'_>> =
        other_ref.map(|value| serde_json::from_str(value).expect("serde_json refuses the ref"));
    assert_eq!(params.reference.is_some(), other_ref.is_some(), "{}", shown(body));
    if let (Some(reference), Some(other)) = (&params.reference, other_ref) {
        assert!(is_same(reference.kind.as_ref(), &string(other.r#type)), "{}", shown(body));
        assert!(is_same(reference.name.as_ref(), &string(other.name)), "{}", shown(body));
        assert!(is_same(reference.uri.as_ref(), &string(other.uri)), "{}", shown(body));
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
