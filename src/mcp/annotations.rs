//! What a server declares about one of its tools, prompts or resources: the hints of `annotations`.

use serde_json::{Map, Value};

/// The annotations of one tool, prompt or resource, as its server listed them; never as a request
/// claims them. A hint that is missing, or is not a boolean, is not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    /// `readOnlyHint`: it changes nothing.
    pub read_only: Option<bool>,
    /// `destructiveHint`: what it changes may be lost.
    pub destructive: Option<bool>,
    /// `idempotentHint`: to run it twice is to run it once.
    pub idempotent: Option<bool>,
    /// `openWorldHint`: it reaches beyond its server.
    pub open_world: Option<bool>,
    /// `title`: a name for people.
    pub title: Option<String>,
    /// Every key that was declared, those above too.
    pub declared: Map<String, Value>,
}

impl Annotations {
    /// Reads the value of an `annotations` key; what is no object declares nothing.
    pub fn of_json(annotations: &Value) -> Self {
        let Value::Object(declared) = annotations else { return Self::default() };
        let hint = |key: &str| declared.get(key).and_then(Value::as_bool);
        Self {
            read_only: hint("readOnlyHint"),
            destructive: hint("destructiveHint"),
            idempotent: hint("idempotentHint"),
            open_world: hint("openWorldHint"),
            title: declared.get("title").and_then(Value::as_str).map(str::to_owned),
            declared: declared.clone(),
        }
    }

    /// What was declared, without hints that are none.
    pub fn known(&self) -> impl Iterator<Item = (&String, &Value)> {
        const HINTS: [&str; 4] =
            ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"];
        let is_known =
            |(key, value): &(&String, &Value)| value.is_boolean() || !HINTS.contains(&key.as_str());
        self.declared.iter().filter(is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::Annotations;
    use serde_json::json;

    #[test]
    fn hints_are_read_and_everything_else_is_kept() {
        let read = Annotations::of_json(&json!({
            "title": "Read a file",
            "readOnlyHint": true,
            "destructiveHint": "no",
            "openWorldHint": false,
            "com.example/level": 3,
        }));
        assert_eq!(read.read_only, Some(true));
        assert_eq!(read.destructive, None, "a hint that is no boolean is not known");
        assert_eq!(read.idempotent, None);
        assert_eq!(read.open_world, Some(false));
        assert_eq!(read.title.as_deref(), Some("Read a file"));
        assert_eq!(read.declared["com.example/level"], 3);
        assert_eq!(read.known().count(), 4, "all but the hint that is none");
        for nothing in [json!(null), json!([true]), json!("readOnlyHint"), json!({})] {
            assert_eq!(Annotations::of_json(&nothing), Annotations::default(), "{nothing}");
        }
    }
}
