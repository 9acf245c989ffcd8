//! What a token says: JSON in which every name stands once, and what is read from it.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::audience::canonical;
use super::caller::{Caller, Method, Proven};
use super::vouched::Vouched;
use crate::config::Meaning;

/// A longer name makes logs and metrics unreadable.
const NAME_CHARS_MAX: usize = 256;
/// Tokens for more than this many audiences are for nobody in particular.
const AUDIENCES_MAX: usize = 32;

/// Reads one JSON object. A name that stands twice in any object is a fault: two readers could
/// believe two tokens.
pub(super) fn parse(json: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let Ok(Value::Object(claims)) = Unique.deserialize(&mut reader) else { return None };
    reader.end().ok().map(|()| claims)
}

/// What a token says of its caller, whoever made sure that the token is true; `None` if it does not
/// name the caller, or says what cannot be.
pub(super) fn vouched(
    claims: Map<String, Value>,
    issuer: &str,
    meaning: &Meaning,
    method: Method,
    until_s: u64,
) -> Option<Vouched> {
    let id = name(claims.get(&meaning.caller)?)?;
    let tenant = match meaning.tenant.as_ref().and_then(|tenant| claims.get(tenant)) {
        Some(tenant) => Some(name(tenant)?.to_owned()),
        None => None,
    };
    let audiences = strings(claims.get("aud")?)?;
    if audiences.len() > AUDIENCES_MAX {
        return None;
    }
    let is_everywhere = audiences.iter().any(|audience| meaning.audiences.contains(audience));
    let proven = Proven {
        id: format!("{}{id}", meaning.caller_prefix),
        issuer: Some(issuer.to_owned()),
        tenant,
        scopes: scopes(&claims)?,
        claims,
        method,
    };
    let audiences = audiences.iter().map(|audience| canonical(audience)).collect();
    Some(Vouched { caller: Arc::new(Caller::new(proven)), audiences, is_everywhere, until_s })
}

/// A moment in seconds since 1970 (RFC 7519 `NumericDate`); `None` if it is something else, such as
/// a text, or before that.
pub(super) fn moment(claim: &Value) -> Option<u64> {
    let seconds = claim.as_u64().map(|seconds| seconds as f64).or_else(|| claim.as_f64())?;
    // Beyond 2^53 seconds are no longer exact, and nobody lives so long.
    let is_sane = (0.0..=9_007_199_254_740_992.0).contains(&seconds);
    is_sane.then_some(seconds as u64)
}

/// `scope` (RFC 8693 section 4.2), `scp` and `roles` together.
fn scopes(claims: &Map<String, Value>) -> Option<Vec<String>> {
    let mut scopes = Vec::new();
    for name in ["scope", "scp", "roles"] {
        match claims.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(list)) => {
                scopes.extend(list.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned));
            }
            Some(list) => scopes.extend(strings(list)?),
        }
    }
    Some(scopes)
}

/// One text, or a list of texts.
fn strings(claim: &Value) -> Option<Vec<String>> {
    match claim {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A text that may stand in logs and metrics.
fn name(claim: &Value) -> Option<&str> {
    claim.as_str().filter(|name| is_name(name))
}

/// Whether a text may name a caller.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().count() <= NAME_CHARS_MAX
        && !text.chars().any(char::is_control)
}

/// Reads JSON as `serde_json` does, but takes no name twice.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if map.insert(name, entries.next_value_seed(Self)?).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::{Map, Method, Value, moment, parse, vouched};
    use crate::config::Meaning;
    use serde_json::json;

    #[test]
    fn a_name_stands_once() {
        let rows: &[(&[u8], bool)] = &[
            (br#"{"sub":"ann","n":[1,-1,1.5,true,null,{"a":{}}]}"#, true),
            (br#"{"sub":"ann","sub":"bob"}"#, false),
            (br#"{"sub":"ann","\u0073ub":"bob"}"#, false),
            (br#"{"a":{"b":1,"b":1}}"#, false),
            (br#"{"a":[{"b":1,"b":1}]}"#, false),
            (br#"{"sub":"ann"}{}"#, false),
            (br#"["sub"]"#, false),
            (b"{\"sub\":\"\xff\"}", false),
            (b"", false),
        ];
        for (json, expected) in rows {
            let parsed = parse(json);
            assert_eq!(parsed.is_some(), *expected, "{}", String::from_utf8_lossy(json));
            if let Some(parsed) = parsed {
                let plain: Map<String, Value> = serde_json::from_slice(json).expect("JSON");
                assert_eq!(parsed, plain);
            }
        }
        let deep = format!("{}{}", r#"{"a":"#.repeat(4000), "}".repeat(4000));
        assert!(parse(deep.as_bytes()).is_none(), "the stack is not for clients");
    }

    #[test]
    fn moments_are_numbers() {
        let rows = [
            (json!(1_700_000_000), Some(1_700_000_000)),
            (json!(1.5), Some(1)),
            (json!(-1), None),
            (json!("1700000000"), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
            (json!(null), None),
        ];
        for (claim, expected) in rows {
            assert_eq!(moment(&claim), expected, "{claim}");
        }
    }

    fn meaning() -> Meaning {
        Meaning {
            caller: "sub".to_owned(),
            caller_prefix: "idp:".to_owned(),
            tenant: Some("org".to_owned()),
            audiences: vec!["toolgate".to_owned()],
        }
    }

    #[test]
    fn scopes_come_from_three_claims() {
        let rows = [
            (json!({ "scope": "b  a" }), Some(vec!["a", "b"])),
            (json!({ "scp": "a b", "roles": ["c", "a"] }), Some(vec!["a", "b", "c"])),
            (json!({ "scp": ["x y"] }), Some(vec!["x y"])),
            (json!({ "scope": null }), Some(vec![])),
            (json!({}), Some(vec![])),
            (json!({ "scope": 7 }), None),
            (json!({ "roles": [7] }), None),
        ];
        for (mut claims, expected) in rows {
            claims["sub"] = json!("ann");
            claims["aud"] = json!("https://h/mcp");
            let Value::Object(map) = claims.clone() else { unreachable!() };
            let found = vouched(map, "https://idp", &meaning(), Method::Jwt, 1);
            let found = found.map(|vouched| vouched.caller.scopes().to_vec());
            assert_eq!(
                found,
                expected.map(|e| e.into_iter().map(str::to_owned).collect()),
                "{claims}"
            );
        }
    }

    #[test]
    fn a_token_names_its_caller_and_its_audience() {
        let rows = [
            (json!({ "sub": "ann", "aud": "a" }), true),
            (json!({ "sub": "ann", "aud": ["a", "b"], "org": "acme" }), true),
            (json!({ "sub": "ann" }), false),
            (json!({ "aud": "a" }), false),
            (json!({ "sub": "", "aud": "a" }), false),
            (json!({ "sub": 7, "aud": "a" }), false),
            (json!({ "sub": "a\nb", "aud": "a" }), false),
            (json!({ "sub": "x".repeat(257), "aud": "a" }), false),
            (json!({ "sub": "ann", "aud": { "a": 1 } }), false),
            (json!({ "sub": "ann", "aud": [1] }), false),
            (json!({ "sub": "ann", "aud": vec!["a"; 33] }), false),
            (json!({ "sub": "ann", "aud": "a", "org": 7 }), false),
        ];
        for (claims, expected) in rows {
            let Value::Object(map) = claims.clone() else { unreachable!() };
            let found = vouched(map, "https://idp", &meaning(), Method::Jwt, 1);
            assert_eq!(found.is_some(), expected, "{claims}");
            if let Some(found) = found {
                assert_eq!(found.caller.id(), "idp:ann");
                assert_eq!(found.caller.issuer(), Some("https://idp"));
                assert_eq!(found.caller.tenant(), claims["org"].as_str());
            }
        }
    }
}
