//! Messages that are renamed byte by byte, held against the same messages renamed as trees.

use proptest::collection::{btree_map, vec};
use proptest::prelude::{BoxedStrategy, Just, Strategy, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{Answers, BodyToClient, EventsToClient, Holder, Part, Passage, Passing, to_client};
use crate::sessions::{Binding, Sealing, SessionKey};

const MEMBER: [u8; 4] = *b"git!";
const RELATED: &str = "io.modelcontextprotocol/related-task";
const ASKER: &str = "io.toolgate/server";
const ASKS: [&str; 2] = ["elicitation/create", "sampling/createMessage"];
const METHODS: [&str; 6] =
    ["a", ASKS[0], ASKS[1], "tasks/get", "notifications/cancelled", "notifications/tasks"];
const KEYS: [&str; 27] = [
    "id",
    "method",
    "params",
    "result",
    "error",
    "data",
    "contents",
    "content",
    "messages",
    "resource",
    "uri",
    "_meta",
    RELATED,
    "ui",
    "ui/resourceUri",
    "resourceUri",
    "taskId",
    "task",
    "tasks",
    "requestId",
    "requestState",
    "inputRequests",
    ASKER,
    "notifications",
    "resourceSubscriptions",
    "taskIds",
    "progressToken",
];

/// What messages and streams are made of, and what breaks them.
const NOISE: [&[u8]; 24] = [
    b"data:",
    b"data: ",
    b"id: 7",
    b"\n",
    b"\n\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\"id\":5",
    b"\"method\":\"a\"",
    b"\"params\":{",
    b"\"result\":{",
    b"\"content\":[{",
    b"\"uri\":\"a:b\"",
    b"\"",
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\"_meta\":{}",
    b"1.5",
];

fn passage(sealing: &Sealing) -> Passage<'_> {
    Passage {
        holder: Holder {
            sealing,
            session: Some(SessionKey([7; 12])),
            binding: Binding { route: &[1; 16], caller: &[2; 16] },
        },
        member: MEMBER,
        server: "hub",
        uri_prefix: "github+",
        answers: Answers::Any,
        subscription: None,
        now: 7,
    }
}

/// The same passage for trees: each place is a path of keys.
struct Tree<'a>(&'a Passage<'a>);

impl Tree<'_> {
    fn message(&self, message: &mut Value) {
        let asks = message.get("method").cloned();
        if asks.is_some() {
            self.id(message, "id");
        }
        let method = asks.as_ref().and_then(Value::as_str).unwrap_or_default();
        if let Some(params) = object(message, "params") {
            match method {
                method if ASKS.contains(&method) => self.ask(params),
                method if method.starts_with("tasks/") => self.meta(params),
                _ => self.params(params),
            }
            if let Some(token) =
                params.get_mut("_meta").and_then(|meta| meta.get_mut("progressToken"))
                && (token.is_string() || token.is_i64())
            {
                let shown = self.0.holder.show_progress_token(MEMBER, &token.to_string());
                *token = json!(shown.expect("sealed"));
            }
        }
        if let Some(result) = object(message, "result") {
            self.result(result);
        }
        if let Some(failure) = object(message, "error").and_then(|error| object(error, "data")) {
            self.uri(failure, "uri");
        }
    }

    fn params(&self, params: &mut Value) {
        self.meta(params);
        self.uri(params, "uri");
        self.id(params, "requestId");
        self.task(params, "taskId");
        self.input_requests(params);
        if let Some(result) = object(params, "result") {
            self.task_result(result);
        }
        if let Some(filter) = object(params, "notifications") {
            for (key, is_uri) in [("resourceSubscriptions", true), ("taskIds", false)] {
                for element in elements(filter, key) {
                    match is_uri {
                        true => self.rename_uri(element),
                        false => self.rename_task(element),
                    }
                }
            }
        }
    }

    fn result(&self, result: &mut Value) {
        self.task_result(result);
        self.input_requests(result);
        self.task(result, "taskId");
        if let Some(task) = object(result, "task") {
            self.task(task, "taskId");
        }
        for task in elements(result, "tasks") {
            self.task(task, "taskId");
        }
        if let Some(Value::String(state)) = result.get_mut("requestState") {
            *state = self.0.holder.show_request_state(MEMBER, state, 7).expect("sealed");
        }
        if let Some(inner) = object(result, "result") {
            self.task_result(inner);
        }
    }

    fn task_result(&self, result: &mut Value) {
        self.meta(result);
        self.content(result);
        for contents in elements(result, "contents") {
            self.uri(contents, "uri");
            self.meta(contents);
        }
        self.messages(result);
    }

    fn messages(&self, of: &mut Value) {
        for message in elements(of, "messages") {
            self.content(message);
        }
    }

    fn content(&self, of: &mut Value) {
        match of.get_mut("content") {
            Some(Value::Array(blocks)) => blocks.iter_mut().for_each(|block| self.block(block)),
            Some(block) => self.block(block),
            None => {}
        }
    }

    fn block(&self, block: &mut Value) {
        self.uri(block, "uri");
        self.meta(block);
        if let Some(resource) = object(block, "resource") {
            self.uri(resource, "uri");
            self.meta(resource);
        }
    }

    fn input_requests(&self, of: &mut Value) {
        let Some(Value::Object(requests)) = of.get_mut("inputRequests") else { return };
        for request in requests.values_mut() {
            if let Some(params) = object(request, "params") {
                self.ask(params);
            }
        }
    }

    fn ask(&self, params: &mut Value) {
        self.messages(params);
        self.meta(params);
        if object(params, "_meta").is_none() {
            params["_meta"] = json!({});
        }
        params["_meta"][ASKER] = json!("hub");
    }

    fn meta(&self, of: &mut Value) {
        let Some(meta) = object(of, "_meta") else { return };
        self.uri(meta, "ui/resourceUri");
        if let Some(task) = object(meta, RELATED) {
            self.task(task, "taskId");
        }
        if let Some(ui) = object(meta, "ui") {
            self.uri(ui, "resourceUri");
        }
    }

    fn id(&self, of: &mut Value, key: &str) {
        if let Some(id) = of.get_mut(key)
            && (id.is_string() || id.is_i64())
        {
            *id = json!(self.0.holder.show_request_id(MEMBER, &id.to_string()).expect("sealed"));
        }
    }

    fn task(&self, of: &mut Value, key: &str) {
        if let Some(task) = of.get_mut(key) {
            self.rename_task(task);
        }
    }

    fn rename_task(&self, task: &mut Value) {
        if let Value::String(id) = task {
            *id = self.0.holder.show_task_id(MEMBER, id).expect("sealed");
        }
    }

    fn uri(&self, of: &mut Value, key: &str) {
        if let Some(uri) = of.get_mut(key) {
            self.rename_uri(uri);
        }
    }

    fn rename_uri(&self, uri: &mut Value) {
        if let Value::String(uri) = uri {
            *uri = match uri.strip_prefix("ui://") {
                Some(page) => format!("ui://github+{page}"),
                None => format!("github+{uri}"),
            };
        }
    }
}

fn object<'v>(of: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    of.get_mut(key).filter(|value| value.is_object())
}

fn elements<'v>(of: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    of.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Any JSON whose keys are those that mean something somewhere.
fn tree() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        select(&["ui://a/b", "file:///a", "", "t-1", "a\"\\\n\u{e9}\u{1f980}"][..])
            .prop_map(Value::from),
        (-9..9i64).prop_map(Value::from),
        Just(Value::Null),
        Just(json!(true)),
        Just(json!(1.5)),
    ];
    leaf.prop_recursive(5, 60, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            members(inner.clone()),
            members(inner),
        ]
    })
    .boxed()
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let members = btree_map(select(&KEYS[..]), value, 0..6);
    members.prop_map(|members| {
        members
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Map<_, _>>()
            .into()
    })
}

fn message() -> impl Strategy<Value = Value> {
    let id = prop_oneof![Just(json!(5)), Just(json!("a\"b")), Just(json!(-1))];
    let asks = (select(&METHODS[..]), tree(), id.clone())
        .prop_map(|(method, params, id)| json!({"id": id, "method": method, "params": params}));
    let answers = (tree(), id.clone()).prop_map(|(result, id)| json!({"id": id, "result": result}));
    let fails = (tree(), id).prop_map(|(error, id)| json!({"id": id, "error": error}));
    let tells = (select(&METHODS[..]), tree())
        .prop_map(|(method, params)| json!({"method": method, "params": params}));
    prop_oneof![asks, answers, fails, tells]
}

/// As a server may write it: in one line, or in several with spaces.
fn written(message: &Value, is_pretty: &bool) -> String {
    match is_pretty {
        true => serde_json::to_string_pretty(message).expect("JSON"),
        false => message.to_string(),
    }
}

proptest! {
    #[test]
    fn bytes_are_renamed_as_trees_are(message in message(), is_pretty: bool) {
        let sealing = Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter());
        let passage = passage(&sealing);
        let text = written(&message, &is_pretty);
        let mut expected = message.clone();
        Tree(&passage).message(&mut expected);
        let passed = to_client(&passage, text.as_bytes()).expect("it passes");
        // What does not change is not copied.
        prop_assert_eq!(passed.is_none(), expected == message);
        let passed = passed.unwrap_or_else(|| text.clone().into_bytes());
        prop_assert_eq!(serde_json::from_slice::<Value>(&passed).expect("JSON"), expected);
    }

    #[test]
    fn streams_pass_alike_however_they_are_cut(
        messages in vec((message(), proptest::bool::ANY), 1..4),
        cuts in vec(1..60usize, 1..20),
        bytes_max in 0..3000usize,
        end in select(&["\n", "\r\n", "\r"][..]),
    ) {
        let sealing = Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter());
        let passage = passage(&sealing);
        let (mut stream, mut expected) = (String::new(), Vec::new());
        for (message, is_pretty) in &messages {
            stream += &format!("id: 1{end}");
            for line in written(message, is_pretty).lines() {
                stream += &format!("data: {line}{end}");
            }
            stream += end;
            let mut renamed = message.clone();
            Tree(&passage).message(&mut renamed);
            expected.push(renamed);
        }
        let mut events = EventsToClient::new(&passage, bytes_max.max(600));
        let (mut passed, mut rest) = (Vec::new(), stream.as_bytes());
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at(*cut.min(&rest.len()));
            rest = after;
            let Part { passing, dropped } = events.pass(part, &passage).expect("it passes");
            prop_assert_eq!(dropped, None);
            match passing {
                Passing::Whole => passed.extend_from_slice(part),
                Passing::Instead(instead) => passed.extend(instead),
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(passed.ends_with(end.as_bytes()), true);
        let found = crate::mcp::data_of_events(&[&passed[..], b"\n"].concat());
        let found: Vec<Value> =
            found.iter().map(|data| serde_json::from_slice(data).expect("JSON")).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn bodies_pass_alike_however_they_are_cut(
        message in message(),
        is_pretty: bool,
        size in 1..50usize,
    ) {
        let sealing = Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter());
        let passage = passage(&sealing);
        let text = written(&message, &is_pretty);
        let expected = to_client(&passage, text.as_bytes()).expect("it passes");
        let mut body = BodyToClient::new(&passage, 100);
        let mut passed = Vec::new();
        for part in text.as_bytes().chunks(size) {
            match body.pass(part, &passage).expect("it passes") {
                Passing::Whole => passed.extend_from_slice(part),
                Passing::Instead(instead) => passed.extend(instead),
            }
        }
        prop_assert_eq!(body.finish(), Ok(()));
        prop_assert_eq!(passed, expected.unwrap_or_else(|| text.into_bytes()));
    }

    #[test]
    fn noise_is_judged_alike_however_it_is_cut(
        noise in vec(select(&NOISE[..]), 0..60),
        size in 1..20usize,
    ) {
        let sealing = Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter());
        let passage = passage(&sealing);
        let noise = noise.concat();
        let pass = |size: usize| {
            let mut events = EventsToClient::new(&passage, 10_000);
            let mut passed = Vec::new();
            for part in noise.chunks(size) {
                match events.pass(part, &passage).expect("nothing is cut").passing {
                    Passing::Whole => passed.extend_from_slice(part),
                    Passing::Instead(instead) => passed.extend(instead),
                }
            }
            passed
        };
        prop_assert_eq!(pass(size), pass(noise.len().max(1)));
        let whole = to_client(&passage, &noise);
        let mut body = BodyToClient::new(&passage, 10_000);
        let mut parts = noise.chunks(size).map(|part| body.pass(part, &passage).map(|_| ()));
        let judged = parts.find(Result::is_err).unwrap_or(Ok(()));
        let judged = judged.and_then(|()| body.finish());
        prop_assert_eq!(judged, whole.map(|_| ()));
    }
}
