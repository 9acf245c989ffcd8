//! Places of a body that read differently onwards; every other byte is sent as it came.

use std::borrow::Cow;
use std::ops::Range;

/// What stands where in a body instead of what came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splices<'a>(Vec<(Range<usize>, Cow<'a, [u8]>)>);

impl<'a> Splices<'a> {
    /// In this place, which is that of a string with its quotes, stands this text.
    pub fn text(&mut self, place: Range<usize>, text: &str) {
        self.literal(place, json_text(text));
    }

    /// In this place stands this JSON.
    pub fn literal(&mut self, place: Range<usize>, literal: impl Into<Cow<'a, [u8]>>) {
        let at = self.0.partition_point(|(other, _)| other.start <= place.start);
        self.0.insert(at, (place, literal.into()));
    }

    /// Whether the body is sent as it came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The body that is sent. Of two splices in one place only the first is made.
    pub fn apply(&self, body: &[u8]) -> Vec<u8> {
        let more: usize = self.0.iter().map(|(_, literal)| literal.len()).sum();
        let mut spliced = Vec::with_capacity(body.len() + more);
        let mut copied = 0;
        for (place, literal) in &self.0 {
            if let Some(before) = body.get(copied..place.start) {
                spliced.extend_from_slice(before);
                spliced.extend_from_slice(literal);
                copied = place.end;
            }
        }
        spliced.extend_from_slice(body.get(copied..).unwrap_or_default());
        spliced
    }
}

/// A text as a string of JSON.
pub(super) fn json_text(text: &str) -> Vec<u8> {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    match text.bytes().all(is_plain) {
        true => ["\"", text, "\""].concat().into_bytes(),
        false => serde_json::Value::from(text).to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Splices, json_text};
    use crate::jsonrpc::peek;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use serde_json::{Value, json};

    #[test]
    fn splices_are_made_in_the_order_of_their_places() {
        let mut splices = Splices::default();
        assert!(splices.is_empty());
        splices.literal(4..5, &b"two"[..]);
        splices.literal(0..1, &b"one"[..]);
        splices.literal(4..6, &b"never"[..]);
        splices.literal(90..91, &b"never"[..]);
        assert_eq!(splices.apply(b"a b d e"), b"one b two e");
    }

    fn body(name: &str, uri: &str, arguments: &Value) -> String {
        format!(
            r#"{{"method":"tools/call", "params":{{"arguments": {arguments} ,"name":{},"ref":{{"uri":{},"type":"t","name":"n"}},"requestState":"s"}},"id":1,"jsonrpc":"2.0"}}"#,
            json!(name),
            json!(uri),
        )
    }

    proptest! {
        #[test]
        fn names_are_replaced_and_nothing_else(
            name in any::<String>(),
            uri in any::<String>(),
            new in any::<String>(),
            argument in any::<String>(),
        ) {
            let arguments = json!({"name": argument, "n": [1.50, null, {"uri": "x"}]});
            let body = body(&name, &uri, &arguments);
            let envelope = peek(body.as_bytes()).expect("a message");
            let reference = envelope.params.reference.as_ref().expect("a reference");
            let places = [
                envelope.params.name.as_ref().expect("a name").span(),
                reference.uri.as_ref().expect("a URI").span(),
                reference.name.as_ref().expect("a name").span(),
                envelope.params.request_state.as_ref().expect("a state").span(),
            ];
            let mut same = Splices::default();
            let mut changed = Splices::default();
            for place in &places {
                same.literal(place.clone(), &body.as_bytes()[place.clone()]);
                changed.text(place.clone(), &new);
            }
            prop_assert_eq!(same.apply(body.as_bytes()), body.as_bytes());
            let changed = changed.apply(body.as_bytes());
            let mut tree: Value = serde_json::from_str(&body).expect("JSON");
            tree["params"]["name"] = json!(new);
            tree["params"]["ref"]["uri"] = json!(new);
            tree["params"]["ref"]["name"] = json!(new);
            tree["params"]["requestState"] = json!(new);
            prop_assert_eq!(serde_json::from_slice::<Value>(&changed).expect("JSON"), tree);
            let untouched = format!("\"arguments\": {arguments} ,");
            prop_assert!(changed.windows(untouched.len()).any(|it| it == untouched.as_bytes()));
        }

        #[test]
        fn every_text_is_a_string_of_json(text in any::<String>()) {
            let literal = json_text(&text);
            prop_assert_eq!(serde_json::from_slice::<String>(&literal).expect("a string"), text);
        }
    }
}
