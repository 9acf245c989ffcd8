//! Whether what a tool wants sent as headers may be sent: clients drop tools whose `x-mcp-header` is not as MCP says.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

const KEY: &str = "x-mcp-header";
/// Under these stands no schema.
const VALUES: [&str; 4] = ["const", "default", "enum", "examples"];

/// Where a part of a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Root,
    /// Reached through nothing but `properties`.
    Property,
    Elsewhere,
}

/// Whether every header that the tool asks for may be sent.
pub(super) fn are_good(tool: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Tool {
        #[serde(rename = "inputSchema", default)]
        schema: Value,
    }
    // Nearly no tool asks for any; a key that is written with escapes still ends so.
    if memchr::memmem::find(tool, b"header").is_none() && !tool.contains(&b'\\') {
        return true;
    }
    serde_json::from_slice::<Tool>(tool)
        .is_ok_and(|tool| is_good(&tool.schema, Standing::Root, &mut HashSet::new()))
}

/// The depth of definitions is bounded before.
fn is_good(schema: &Value, standing: Standing, names: &mut HashSet<String>) -> bool {
    let members = match schema {
        Value::Object(members) => members,
        Value::Array(items) => {
            return items.iter().all(|item| is_good(item, Standing::Elsewhere, names));
        }
        _ => return true,
    };
    if let Some(header) = members.get(KEY) {
        let is_sent = matches!(
            members.get("type").and_then(Value::as_str),
            Some("string" | "integer" | "boolean")
        );
        let name = header.as_str().filter(|name| is_token(name)).map(str::to_ascii_lowercase);
        let is_new = name.is_some_and(|name| names.insert(name));
        if standing != Standing::Property || !is_sent || !is_new {
            return false;
        }
    }
    members.iter().filter(|(key, _)| !VALUES.contains(&key.as_str())).all(|(key, value)| {
        let own = value.as_object().filter(|_| key == "properties");
        let Some(properties) = own else { return is_good(value, Standing::Elsewhere, names) };
        let below = match standing {
            Standing::Root | Standing::Property => Standing::Property,
            Standing::Elsewhere => Standing::Elsewhere,
        };
        properties.values().all(|property| is_good(property, below, names))
    })
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_sign)
}

#[cfg(test)]
mod tests {
    use super::are_good;

    #[test]
    fn headers_that_may_not_be_sent_are_found() {
        let property = |text: &str| format!(r#"{{"properties":{{"a":{text}}}}}"#);
        let header = r#"{"type":"string","x-mcp-header":"A"}"#;
        let rows = [
            (property(header), true),
            (property(&property(header)), true),
            (r#"{"properties":{"x-mcp-header":{"type":"number"}}}"#.to_owned(), true),
            (r#"{"default":{"x-mcp-header":5}}"#.to_owned(), true),
            (property(r#"{"type":"number","x-mcp-header":"A"}"#), false),
            (property(r#"{"type":"string","x-mcp-header":""}"#), false),
            (property(r#"{"type":"string","x-mcp-header":"A b"}"#), false),
            (property(r#"{"type":"string","x-mcp-header":5}"#), false),
            (property(r#"{"type":"string","x-mcp-heade\u0072":5}"#), false),
            (property(&format!(r#"{{"items":{header}}}"#)), false),
            (format!(r#"{{"anyOf":[{}]}}"#, property(header)), false),
            (header.to_owned(), false),
            (
                format!(
                    r#"{{"properties":{{"a":{header},"b":{}}}}}"#,
                    header.replace(r#""A""#, r#""a""#)
                ),
                false,
            ),
        ];
        for (schema, expected) in rows {
            let tool = format!(r#"{{"name":"t","inputSchema":{schema}}}"#);
            assert_eq!(are_good(tool.as_bytes()), expected, "{tool}");
        }
        assert!(are_good(br#"{"name":"t","description":"header"}"#));
    }
}
