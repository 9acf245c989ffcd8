//! Messages of a server on their way to a client: what the client knows by another name is renamed,
//! and everything else stays byte for byte.

use std::borrow::Cow;

use super::holder::Holder;
use super::splices::json_text;
use super::uris::{UI, shown_uri};
use crate::mcp::{EditScan, Rewrite, Sought, Subject, Unfit, edited};

/// The way of the messages of one exchange, from one server to one client.
#[derive(Clone, Copy)]
pub struct Passage<'a> {
    /// The client.
    pub holder: Holder<'a>,
    /// The server, by the digest of its name.
    pub member: [u8; 4],
    /// The server's name, told to people who are asked something.
    pub server: &'a str,
    /// What stands before the schemes of the server's URIs; empty if nothing does.
    pub uri_prefix: &'a str,
    /// What the server may answer here.
    pub answers: Answers<'a>,
    /// The client's listen request, as its id stands on the wire, where this is the answer to it.
    pub subscription: Option<&'a str>,
    /// Seconds since 1970.
    pub now: u32,
}

/// Which requests a server may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers<'a> {
    /// Any: a stream that was resumed has answers to earlier requests.
    Any,
    /// Only one. Both ids stand as on the wire.
    To {
        /// What the gateway called it towards the server.
        own: &'a str,
        /// What the client called it.
        shown: &'a str,
    },
}

/// One JSON-RPC message of the server, as the client may see it. `None` if it may pass as it is.
pub fn to_client(passage: &Passage<'_>, message: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
    let mut scan = EditScan::new(passage.sought());
    scan.feed(message, 0, passage)?;
    if !scan.is_over() {
        return Err(Unfit::Truncated);
    }
    let edits = scan.take_edits();
    Ok((!edits.is_empty()).then(|| edited(message, &edits, 0)))
}

/// The body of an answer in JSON, as the client may see it. `None` if it may pass as it is.
pub fn json(passage: &Passage<'_>, body: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
    to_client(passage, body)
}

impl Passage<'_> {
    /// What may have to be renamed in messages on this way.
    pub fn sought(&self) -> Sought {
        let mut sought = Sought::of(Subject::TaskId)
            .and(Sought::of(Subject::RequestState))
            .and(Sought::of(Subject::Asker));
        let more = [
            (Subject::RequestId, self.holder.session.is_some()),
            (Subject::Uri, !self.uri_prefix.is_empty()),
            (Subject::AnswerId, self.answers != Answers::Any),
            (Subject::SubscriptionId, self.subscription.is_some()),
        ];
        for (subject, is_sought) in more {
            if is_sought {
                sought = sought.and(Sought::of(subject));
            }
        }
        sought
    }

    fn request_id(&self, raw: &str) -> Result<Vec<u8>, Unfit> {
        let shown = self.holder.show_request_id(self.member, raw).ok_or(Unfit::TooLong)?;
        Ok(quoted(&shown))
    }

    fn answer_id(&self, raw: &str) -> Result<Option<Vec<u8>>, Unfit> {
        let Answers::To { own, shown } = self.answers else { return Ok(None) };
        if !is_same_id(raw, own) {
            return Err(Unfit::ForeignAnswer);
        }
        Ok((own != shown).then(|| shown.as_bytes().to_vec()))
    }

    /// A URI with its prefix, which stands before its scheme, or after that of MCP Apps: hosts look
    /// at it.
    fn uri(&self, literal: &str) -> Result<Vec<u8>, Unfit> {
        let inner = literal.get(1..literal.len() - 1).unwrap_or_default();
        let start = inner.as_bytes();
        // Without an escape where it begins it can be given its prefix as it stands.
        if !start.iter().take(UI.len()).any(|byte| *byte == b'\\') {
            return Ok(quoted(&shown_uri(self.uri_prefix, inner)));
        }
        Ok(json_text(&shown_uri(self.uri_prefix, &decoded(literal)?)))
    }
}

impl Rewrite for Passage<'_> {
    fn instead(&self, subject: Subject, literal: &str) -> Result<Option<Vec<u8>>, Unfit> {
        match subject {
            Subject::RequestId => self.request_id(literal).map(Some),
            Subject::AnswerId => self.answer_id(literal),
            Subject::CancelledId => match self.subscription {
                Some(id) => Ok(Some(id.as_bytes().to_vec())),
                None => self.request_id(literal).map(Some),
            },
            Subject::ProgressToken => {
                let shown = self.holder.show_progress_token(self.member, literal);
                Ok(Some(quoted(&shown.ok_or(Unfit::TooLong)?)))
            }
            // It is the client's own.
            Subject::ToldToken => Ok(None),
            Subject::Uri => self.uri(literal).map(Some),
            Subject::RequestState => {
                let own = decoded(literal)?;
                let shown = self.holder.show_request_state(self.member, &own, self.now);
                Ok(Some(quoted(&shown.ok_or(Unfit::TooLong)?)))
            }
            Subject::TaskId => {
                let shown = self.holder.show_task_id(self.member, &decoded(literal)?);
                Ok(Some(quoted(&shown.ok_or(Unfit::TooLong)?)))
            }
            Subject::SubscriptionId => Ok(self.subscription.map(|id| id.as_bytes().to_vec())),
            Subject::Asker => Ok(Some(json_text(self.server))),
        }
    }
}

/// Whether two ids are one: servers write the same string and the same number in other ways.
fn is_same_id(found: &str, expected: &str) -> bool {
    if found == expected {
        return true;
    }
    match (found.starts_with('"'), expected.starts_with('"')) {
        (true, true) => match (decoded(found), decoded(expected)) {
            (Ok(found), Ok(expected)) => found == expected,
            _ => false,
        },
        (false, false) => match (found.parse::<f64>(), expected.parse::<f64>()) {
            (Ok(found), Ok(expected)) => found == expected,
            _ => false,
        },
        _ => false,
    }
}

/// What a literal means; half of a surrogate pair means nothing.
fn decoded(literal: &str) -> Result<Cow<'_, str>, Unfit> {
    match literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str(literal).map(Cow::Owned).map_err(|_| Unfit::NotText),
    }
}

/// A literal of text that needs no escape.
fn quoted(text: &str) -> Vec<u8> {
    ["\"", text, "\""].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::{Answers, Holder, Passage, to_client};
    use crate::federation::Held;
    use crate::mcp::Unfit;
    use crate::sessions::{Binding, Sealing, SessionKey};

    const MEMBER: [u8; 4] = *b"git!";
    const NOW: u32 = 1_000_000;

    fn sealing() -> Sealing {
        Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter())
    }

    fn passage(sealing: &Sealing) -> Passage<'_> {
        Passage {
            holder: Holder {
                sealing,
                session: Some(SessionKey([7; 12])),
                binding: Binding { route: &[1; 16], caller: &[2; 16] },
            },
            member: MEMBER,
            server: "git \"hub\"",
            uri_prefix: "github+",
            answers: Answers::To { own: "1", shown: "1" },
            subscription: None,
            now: NOW,
        }
    }

    fn passed(passage: &Passage<'_>, message: &str) -> String {
        let passed = to_client(passage, message.as_bytes()).expect("it passes");
        passed.map_or_else(|| message.to_owned(), |passed| String::from_utf8(passed).expect("text"))
    }

    #[test]
    fn requests_of_servers_get_ids_that_lead_back() {
        let sealing = sealing();
        let passage = passage(&sealing);
        for raw in ["5", "-3", "\"a\\u0062\"", "\"\"", "0"] {
            let shown = passage.holder.show_request_id(MEMBER, raw).expect("sealed");
            for message in [
                r#"{"jsonrpc":"2.0","id":ID,"method":"roots/list"}"#,
                r#"{"method":"ping","jsonrpc":"2.0","params":{"x":{"id":1}},"id":ID}"#,
                r#" { "id" : ID , "other" : [ "id" ], "method" : "roots/list" } "#,
                r#"{"id":ID,"params":{},"method":"a"}"#,
                r#"{"\u0069d":ID,"method":"a"}"#,
                r#"{"method":"notifications/cancelled","params":{"requestId":ID,"reason":"x"}}"#,
                r#"[{"id":ID,"method":"a"},{"id":1,"result":{"id":2}},{"method":"b","id":ID}]"#,
            ] {
                let expected = message.replace("ID", &format!("\"{shown}\""));
                assert_eq!(passed(&passage, &message.replace("ID", raw)), expected);
            }
            let held = Held { member: MEMBER, own: raw.to_owned() };
            assert_eq!(passage.holder.request_id(&shown), Ok(held));
        }
    }

    #[test]
    fn what_the_client_named_itself_passes_untouched() {
        let sealing = sealing();
        let passage = passage(&sealing);
        for message in [
            r#"{"jsonrpc":"2.0","id":1,"result":{"id":5,"structuredContent":{"uri":"a:b","taskId":"t"}}}"#,
            r#"{"result":{"content":[{"type":"text","text":"}\"uri\":\"a:b\"["}]},"jsonrpc":"2.0","id":1}"#,
            r#"{"id":1,"error":{"code":1,"message":"m"}}"#,
            r#"{"id":null,"error":{"code":1,"message":"m"}}"#,
            r#"{"method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#,
            r#"{"method":"notifications/message","params":{"level":"info","data":{"uri":"a:b","id":3}}}"#,
            r#"{"method":"notifications/tools/list_changed"}"#,
            "",
            " \n",
        ] {
            assert_eq!(to_client(&passage, message.as_bytes()), Ok(None), "{message}");
        }
    }

    #[test]
    fn messages_that_readers_could_take_for_others_do_not_pass() {
        let sealing = sealing();
        let passage = passage(&sealing);
        let long = "x".repeat(1100);
        let huge = "x".repeat(1_000_000);
        let nested = format!(r#"{{"id":{}1{},"method":"a"}}"#, "[".repeat(9999), "]".repeat(9999));
        for (message, fault) in [
            (r#"{"id":1,"id":2,"method":"a"}"#, Unfit::DuplicateKey),
            (r#"{"id":1,"\u0069d":2,"method":"a"}"#, Unfit::DuplicateKey),
            (r#"{"method":"a","ID":2}"#, Unfit::KeyVariant),
            (r#"{"method":"a","id\u0000":2}"#, Unfit::KeyVariant),
            (r#"{"method":"a","\ud800":2}"#, Unfit::NotText),
            (r#"{"id":1,"result":{"taskId":"a","taskId":"b"}}"#, Unfit::DuplicateKey),
            (r#"{"id":1,"result":{"taskId":"a","TaskID":"b"}}"#, Unfit::KeyVariant),
            (r#"{"id":1,"result":{},"method":"a"}"#, Unfit::BadShape),
            (r#"{"id":1,"method":"a","result":{}}"#, Unfit::BadShape),
            (r#"{"id":null,"method":"a"}"#, Unfit::BadId),
            (r#"{"id":1.5,"method":"a"}"#, Unfit::BadId),
            (r#"{"id":true,"method":"a"}"#, Unfit::BadId),
            (r#"{"id":{"a":1},"method":"a"}"#, Unfit::BadId),
            (&nested, Unfit::BadId),
            (&format!(r#"{{"id":"{long}","method":"a"}}"#), Unfit::TooLong),
            (&format!(r#"{{"id":"{huge}","method":"a"}}"#), Unfit::TooLong),
            (&format!(r#"{{"{huge}":1,"id":1,"method":"a"}}"#), Unfit::TooLong),
            (r#"{"id":2,"result":{}}"#, Unfit::ForeignAnswer),
            (r#"{"result":{},"id":"1"}"#, Unfit::ForeignAnswer),
            (r#"{"id":1,"method":"a""#, Unfit::Truncated),
            (r#"{"id":1,"method":"a"}}"#, Unfit::Broken),
            (r#"{"id":1,"method":"a",}"#, Unfit::Broken),
            (r#"{"id":1 "method":"a"}"#, Unfit::Broken),
            (r#"{"id":"a	b","method":"a"}"#, Unfit::Broken),
            ("ping", Unfit::Broken),
            ("7", Unfit::Broken),
        ] {
            assert_eq!(to_client(&passage, message.as_bytes()), Err(fault), "{message}");
        }
        let invalid = b"{\"id\":\"\xff\",\"method\":\"a\"}";
        assert_eq!(to_client(&passage, invalid), Err(Unfit::NotText));
    }

    #[test]
    fn an_answer_is_known_however_its_server_writes_the_id() {
        let sealing = sealing();
        for (own, shown, found, passes) in [
            ("1", "1", "1", "1"),
            ("1", "1", "1.0", "1.0"),
            (r#""ab""#, r#""ab""#, r#""a\u0062""#, r#""a\u0062""#),
            ("7", r#""listen""#, "7", r#""listen""#),
        ] {
            let passage = Passage { answers: Answers::To { own, shown }, ..passage(&sealing) };
            let message = |id: &str| format!(r#"{{"id":{id},"result":{{}}}}"#);
            assert_eq!(passed(&passage, &message(found)), message(passes));
        }
        let passage = Passage { answers: Answers::Any, ..passage(&sealing) };
        assert_eq!(to_client(&passage, br#"{"id":99,"result":{}}"#), Ok(None));
    }

    #[test]
    fn uris_tasks_and_states_are_renamed_wherever_they_stand() {
        let sealing = sealing();
        let passage = passage(&sealing);
        let task = passage.holder.show_task_id(MEMBER, "t\"1").expect("sealed");
        let state = passage.holder.show_request_state(MEMBER, "s\u{e9}", NOW).expect("sealed");
        let about = |inner: &str| {
            format!(
                r#"{{"io.modelcontextprotocol/related-task":{{"taskId":{inner}}},"ui":{{"resourceUri":"ui://x"}},"a":1}}"#
            )
        };
        let meta = about(r#""t\"1""#);
        let shown_meta = about(&format!("\"{task}\"")).replace("ui://x", "ui://github+x");
        for message in [
            r#"{"id":1,"result":{"contents":[{"uri":"URI","text":"file:///a"},{"uri":"URI","_meta":META}]}}"#,
            r#"{"id":1,"result":{"content":[{"type":"resource_link","uri":"URI","name":"n"},{"type":"resource","resource":{"uri":"URI"}}],"structuredContent":{"uri":"file:///a"}}}"#,
            r#"{"id":1,"result":{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"URI","blob":"x"}}},{"content":[{"uri":"URI"}]}]}}"#,
            r#"{"method":"notifications/resources/updated","params":{"uri":"URI","_meta":META}}"#,
            r#"{"id":1,"error":{"code":-32002,"message":"file:///a","data":{"uri":"URI"}}}"#,
            r#"{"id":1,"result":{"task":{"taskId":TASK,"status":"working"},"_meta":META}}"#,
            r#"{"id":1,"result":{"resultType":"task","taskId":TASK,"result":{"content":[{"uri":"URI"}]}}}"#,
            r#"{"id":1,"result":{"tasks":[{"taskId":TASK},{"taskId":TASK}]}}"#,
            r#"{"method":"notifications/tasks/status","params":{"taskId":TASK,"status":"working"}}"#,
            r#"{"method":"notifications/tasks","params":{"taskId":TASK,"result":{"_meta":META}}}"#,
            r#"{"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["URI","URI"],"taskIds":[TASK]}}}"#,
            r#"{"id":1,"result":{"resultType":"input_required","requestState":STATE}}"#,
        ] {
            let own = message
                .replace("URI", r"file:\/\/\/a")
                .replace("TASK", r#""t\"1""#)
                .replace("STATE", r#""s\u00e9""#)
                .replace("META", &meta);
            let shown = message
                .replace("URI", r"github+file:\/\/\/a")
                .replace("TASK", &format!("\"{task}\""))
                .replace("STATE", &format!("\"{state}\""))
                .replace("META", &shown_meta);
            assert_eq!(passed(&passage, &own), shown);
        }
        for (own, shown) in [
            (r#""ui:\/\/x\/y""#, "\"ui://github+x/y\""),
            (r#""\u0075i://x""#, "\"ui://github+x\""),
            (r#""ui://x\/y""#, r#""ui://github+x\/y""#),
            (r#""a:\"b""#, r#""github+a:\"b""#),
            ("7", "7"),
            ("null", "null"),
            (r#"["a:b"]"#, r#"["a:b"]"#),
        ] {
            let message =
                |uri: &str| format!(r#"{{"id":1,"result":{{"contents":[{{"uri":{uri}}}]}}}}"#);
            assert_eq!(passed(&passage, &message(own)), message(shown));
        }
        let theirs = r#"{"method":"tasks/get","params":{"taskId":"the client's"},"jsonrpc":"2.0"}"#;
        assert_eq!(to_client(&passage, theirs.as_bytes()), Ok(None));
        let plain = Passage { uri_prefix: "", ..passage };
        let read = r#"{"id":1,"result":{"contents":[{"uri":"file:///a","uri":"b"}]}}"#;
        assert_eq!(to_client(&plain, read.as_bytes()), Ok(None));
    }

    #[test]
    fn whoever_asks_is_named_and_nobody_else() {
        let sealing = sealing();
        let passage = Passage { uri_prefix: "", ..passage(&sealing) };
        let name = r#""io.toolgate/server":"git \"hub\"""#;
        for (params, named) in [
            ("{}", format!("{{\"_meta\":{{{name}}}}}")),
            (r#"{"message":"m"}"#, format!(r#"{{"message":"m","_meta":{{{name}}}}}"#)),
            (
                r#"{"_meta":{}, "message":"m" }"#,
                format!(r#"{{"_meta":{{{name}}}, "message":"m" }}"#),
            ),
            (r#"{"_meta":{"a":1}}"#, format!(r#"{{"_meta":{{"a":1,{name}}}}}"#)),
            (r#"{"_meta":null}"#, format!(r#"{{"_meta":{{{name}}}}}"#)),
            (r#"{"_meta":"x","a":1}"#, format!(r#"{{"_meta":{{{name}}},"a":1}}"#)),
            (
                r#"{"_meta":{"io.toolgate/server":{"a":["other"]},"b":2}}"#,
                format!(r#"{{"_meta":{{{name},"b":2}}}}"#),
            ),
            (r#"{"_meta":{"io.toolgate/server":"other"}}"#, format!(r#"{{"_meta":{{{name}}}}}"#)),
        ] {
            for message in [
                r#"{"id":1,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":ASK},"b":{"params":ASK}}}}"#,
                r#"{"method":"notifications/tasks","params":{"inputRequests":{"":{"params":ASK}}}}"#,
                r#"{"method":"elicitation/create","params":ASK}"#,
                r#"{"method":"sampling\/createMessage","params":ASK}"#,
            ] {
                let expected = message.replace("ASK", &named);
                assert_eq!(passed(&passage, &message.replace("ASK", params)), expected);
            }
        }
        let not_asked =
            r#"{"method":"notifications/message","params":{"_meta":{"io.toolgate/server":"x"}}}"#;
        assert_eq!(to_client(&passage, not_asked.as_bytes()), Ok(None));
    }

    #[test]
    fn what_a_listen_stream_says_belongs_to_the_request_of_the_client() {
        let sealing = sealing();
        let passage = Passage {
            holder: Holder { session: None, ..passage(&sealing).holder },
            answers: Answers::To { own: "77", shown: "\"L\"" },
            subscription: Some("\"L\""),
            ..passage(&sealing)
        };
        for message in [
            r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":ID}}}"#,
            r#"{"method":"notifications/cancelled","params":{"requestId":ID}}"#,
            r#"{"id":ID,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":ID}}}"#,
        ] {
            assert_eq!(
                passed(&passage, &message.replace("ID", "77")),
                message.replace("ID", "\"L\"")
            );
        }
        let odd = r#"{"method":"a","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":{"a":[1]} }}}"#;
        let expected = odd.replace(r#"{"a":[1]}"#, "\"L\"");
        assert_eq!(passed(&passage, odd), expected);
    }
}
