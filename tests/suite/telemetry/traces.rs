//! Spans: whose they are, what they say, what servers are told of them, and which are kept.

use crate::support::Stage;
use crate::support::collector::{Collector, text};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::message::{Message, claims};
use crate::support::upstream::{Request, Step, Upstream, json_answer, mcp, plain, sections};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const OF_MESSAGE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OF_HEAD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A gateway that tells a collector, in front of this server.
async fn stage(upstream: Upstream, export: &str, more: &str) -> (Stage, Collector) {
    let collector = Collector::start().await;
    let section = collector.section(&format!("{export}, metrics_interval: 0s"));
    let gateway = Gateway::start(&format!("{}{section}{more}", upstream.sections())).await;
    (Stage { gateway, upstream }, collector)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace and the span of a `traceparent`, and its flags.
fn parts(traceparent: &str) -> (String, String, String) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [_, trace, span, flags] = parts[..] else { panic!("{traceparent}") };
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

fn of_kind(spans: &[Span], kind: i32) -> &Span {
    spans.iter().find(|span| span.kind == kind).expect("a span of this kind")
}

/// All of these attributes are there with these values; an empty one is not there.
fn says(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(text(&span.attributes, key), *value, "{key} of {span:#?}");
    }
}

fn call_with_meta(tool: &str, meta: &Value) -> Message {
    let mut all = claims();
    for (key, value) in meta.as_object().expect("an object") {
        all[key] = value.clone();
    }
    let params = json!({ "name": tool, "arguments": {}, "_meta": all });
    let body = json!({ "jsonrpc": "2.0", "id": "seven", "method": "tools/call", "params": params });
    Message::call(7, tool).with_body(body.to_string())
}

#[tokio::test]
async fn a_call_belongs_to_the_trace_that_its_message_names() {
    let folder = Folder::new();
    let record = folder.path().join("audit.jsonl");
    let audit = format!("audit: {{ sinks: [{{ file: {} }}] }}\n", record.display());
    let (stage, collector) = stage(Upstream::mcp("one").await, "sample: 0", &audit).await;
    let message =
        call_with_meta("echo", &json!({ "traceparent": OF_MESSAGE, "tracestate": "a=1" }))
            .field("traceparent", OF_HEAD)
            .field("tracestate", "b=2")
            .field("baggage", "user=1");
    assert_eq!(stage.ask(&message).await.status, 200);
    let spans = collector.spans_of(2).await;
    let (server, client) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    let (trace, parent, _) = parts(OF_MESSAGE);
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (trace.clone(), parent));
    assert_eq!((server.name.as_str(), server.trace_state.as_str()), ("tools/call echo", "a=1"));
    let (linked_trace, linked_span, _) = parts(OF_HEAD);
    let [link] = &server.links[..] else { panic!("{server:#?}") };
    assert_eq!((hex(&link.trace_id), hex(&link.span_id)), (linked_trace, linked_span));
    assert_eq!((server.flags, server.status.clone()), (0x301, None));
    says(
        server,
        &[
            ("mcp.method.name", "tools/call"),
            ("gen_ai.tool.name", "echo"),
            ("gen_ai.operation.name", "execute_tool"),
            ("jsonrpc.request.id", "seven"),
            ("mcp.protocol.version", "2026-07-28"),
            ("mcp.session.id", ""),
            ("network.protocol.name", "http"),
            ("network.protocol.version", "1.1"),
            ("network.transport", "tcp"),
            ("client.address", "127.0.0.1"),
            ("error.type", ""),
            ("http.response.status_code", "200"),
            ("toolgate.server", "one"),
            ("toolgate.route", "/mcp"),
            ("toolgate.caller", "anonymous"),
        ],
    );
    // The exchange is a part of it, in the time of it.
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.start_time_unix_nano < client.end_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    assert_eq!((client.name.as_str(), client.flags), ("tools/call echo", 0x101));
    let address = stage.upstream.address;
    says(
        client,
        &[
            ("mcp.method.name", "tools/call"),
            ("gen_ai.tool.name", "echo"),
            ("server.address", "127.0.0.1"),
            ("server.port", &address.port().to_string()),
            ("client.address", ""),
        ],
    );
    // The server is told of the exchange, and its message is what the client wrote.
    let seen = stage.upstream.take().remove(0);
    assert_eq!(seen.body, message.body);
    let told = parts(seen.field("traceparent").expect("a traceparent"));
    assert_eq!(told, (trace.clone(), hex(&client.span_id), "01".to_owned()));
    assert_eq!((seen.field("tracestate"), seen.field("baggage")), (Some("a=1"), Some("user=1")));
    let recorded = std::fs::read_to_string(&record).expect("the record");
    assert!(recorded.contains(&format!(r#""trace_id":"{trace}""#)), "{recorded}");
}

#[tokio::test]
async fn a_head_is_the_parent_where_the_message_says_nothing() {
    let (stage, collector) = stage(Upstream::mcp("one").await, "sample: 0", "").await;
    let session = stage.open_session().await;
    let message = Message::legacy_call(2, "echo", &session)
        .field("traceparent", OF_HEAD)
        .field("tracestate", "b=2")
        .field("baggage", &"x".repeat(9000));
    assert_eq!(stage.ask(&message).await.status, 200);
    let spans = collector.spans_of(2).await;
    let (server, client) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    let (trace, parent, _) = parts(OF_HEAD);
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (trace.clone(), parent));
    assert!(server.links.is_empty(), "{server:#?}");
    assert_eq!(server.trace_state, "b=2");
    says(server, &[("mcp.protocol.version", "2025-11-25"), ("jsonrpc.request.id", "2")]);
    // A name that joins the spans of a session, and opens nothing.
    let named = text(&server.attributes, "mcp.session.id");
    assert_eq!((named.len(), text(&client.attributes, "mcp.session.id")), (8, named));
    let seen = stage.upstream.take().remove(0);
    let told = parts(seen.field("traceparent").expect("a traceparent"));
    assert_eq!(told, (trace, hex(&client.span_id), "01".to_owned()));
    // More baggage than anybody must take does not go on.
    assert_eq!((seen.field("tracestate"), seen.field("baggage")), (Some("b=2"), None));
}

/// A server with tools that go wrong in every way.
fn moody(request: &Request) -> Vec<Step> {
    let message = request.json();
    match message["params"]["name"].as_str() {
        Some("fails") => {
            let result = json!({ "content": [], "isError": true });
            let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            json_answer(200, "", &answer)
        }
        Some("sick") => vec![plain(500, "", b"")],
        _ => mcp("one", request),
    }
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let rules = "policy: { rules: [{ name: no-rm, deny: { tools: ['rm'] } }, { name: rest, allow: { tools: ['*'] } }] }\n";
    let (stage, collector) = stage(Upstream::start(moody).await, "sample: 1", rules).await;
    let read = Message::modern(1, "resources/read", json!({ "uri": "file:///secret/plan" }));
    let elsewhere = Message::call(1, "echo").at("/elsewhere");
    let rows = [
        (Message::call(1, "echo"), "tools/call echo", "", "", 2),
        (Message::call(1, "fails"), "tools/call fails", "tool_error", "", 2),
        (Message::call(1, "unknown"), "tools/call unknown", "-32602", "-32602", 2),
        (Message::call(1, "sick"), "tools/call sick", "500", "", 2),
        (Message::modern(1, "server/discover", json!({})), "server/discover", "", "", 2),
        (read, "resources/read", "policy_hidden", "-32602", 1),
        (Message::call(1, "rm"), "tools/call rm", "policy_hidden", "-32602", 1),
        (elsewhere, "POST", "route_unknown", "404", 1),
    ];
    let mut before = 0;
    for (message, name, error, code, count) in rows {
        stage.ask(&message).await;
        let spans = collector.spans_of(before + count).await.split_off(before);
        before += count;
        for span in &spans {
            assert_eq!(span.name, name);
            let is_error = span.status.as_ref().is_some_and(|status| status.code == 2);
            assert_eq!(is_error, !error.is_empty(), "{span:#?}");
            says(span, &[("error.type", error), ("rpc.response.status_code", code)]);
        }
        let refusal = if count == 1 { error } else { "" };
        says(of_kind(&spans, SERVER), &[("toolgate.refusal", refusal)]);
        assert!(of_kind(&spans, SERVER).parent_span_id.is_empty());
        if name == "resources/read" {
            says(&spans[0], &[("mcp.resource.uri", "file:///secret/plan")]);
        }
        if name.ends_with("rm") {
            says(&spans[0], &[("toolgate.rule", "no-rm")]);
        }
    }
}

#[tokio::test]
async fn whoever_begins_a_trace_decides_whether_it_is_kept() {
    let unsampled = OF_HEAD.replace("-01", "-00");
    for (sample, parent, flags, is_kept) in [
        ("sample: 0", None, "00", false),
        ("sample: 1", None, "01", true),
        ("sample: 1", Some(unsampled.as_str()), "00", false),
        ("sample: 0", Some(OF_HEAD), "01", true),
        ("sample: 1", Some("garbage"), "01", true),
    ] {
        let (stage, collector) = stage(Upstream::mcp("one").await, sample, "").await;
        let call = Message::call(1, "echo").field("tracestate", "b=2");
        let call = match parent {
            Some(parent) => call.field("traceparent", parent),
            None => call,
        };
        assert_eq!(stage.ask(&call).await.status, 200);
        let seen = stage.upstream.take().remove(0);
        let (trace, _, told) = parts(seen.field("traceparent").expect("a traceparent"));
        assert_eq!(told, flags, "{sample} {parent:?}");
        let is_followed = parent.is_some_and(|parent| parent.contains(&trace));
        // What vendors said of a trace goes on with that trace only.
        assert_eq!(seen.field("tracestate").is_some(), is_followed, "{sample} {parent:?}");
        if is_kept {
            collector.spans_of(2).await;
        } else {
            // What is kept is sent within a second, and the end sends the rest.
            let mut stage = stage;
            stage.gateway.signal("TERM");
            assert_eq!(stage.gateway.ended().await, Some(0));
            assert!(collector.spans().is_empty(), "{sample} {parent:?}");
        }
    }
}

#[tokio::test]
async fn each_attempt_is_a_span() {
    let collector = Collector::start().await;
    let upstream = Upstream::mcp("one").await;
    let dead = format!("http://{}/mcp", free_address());
    let section = collector.section("sample: 1, metrics_interval: 0s");
    let balance = ", balance: { algorithm: round_robin }";
    let servers = sections(&[dead.clone(), upstream.url()], balance);
    let gateway = Gateway::start(&format!("{servers}{section}")).await;
    let stage = Stage { gateway, upstream };
    for number in 0..4 {
        assert_eq!(stage.ask(&Message::call(number, "echo")).await.status, 200);
    }
    let failed = || collector.spans().into_iter().find(|span| span.status.is_some());
    collector.wait(|| failed().is_some(), "span of an attempt in vain").await;
    let (failed, spans) = (failed().expect("the span"), collector.spans());
    assert_eq!((failed.kind, failed.name.as_str()), (CLIENT, "tools/call echo"));
    let port = dead.trim_end_matches("/mcp").rsplit(':').next().expect("a port");
    says(&failed, &[("error.type", "endpoint_unreachable"), ("server.port", port)]);
    // The spans of a request leave together.
    let parent = spans.iter().find(|span| span.span_id == failed.parent_span_id);
    let parent = parent.expect("the span of the request");
    assert_eq!((parent.kind, parent.status.clone()), (SERVER, None));
    let siblings: Vec<_> =
        spans.iter().filter(|span| span.parent_span_id == failed.parent_span_id).collect();
    assert_eq!(siblings.len(), 2, "{spans:#?}");
    let good = siblings.iter().find(|span| span.status.is_none()).expect("the second attempt");
    assert!(good.start_time_unix_nano >= failed.end_time_unix_nano);
}

#[tokio::test]
async fn what_the_gateway_asks_itself_is_in_the_trace() {
    let collector = Collector::start().await;
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let section = collector.section("sample: 0, metrics_interval: 0s");
    let gateway = Gateway::start(&format!(
        "servers: {{ one: {{ endpoints: [{}] }}, two: {{ endpoints: [{}] }} }}\nroutes: [{{ path: /mcp, servers: [{{ name: one, prefix: a_ }}, {{ name: two, prefix: b_ }}] }}]\n{section}",
        one.url(),
        two.url(),
    ))
    .await;
    let stage = Stage { gateway, upstream: one };
    let initialize =
        Message::initialize().field("traceparent", OF_MESSAGE).field("tracestate", "a=1");
    assert_eq!(stage.ask(&initialize).await.status, 200);
    let seen: Vec<_> = stage.upstream.take().into_iter().chain(two.take()).collect();
    assert!(seen.len() >= 2, "{seen:?}");
    let spans = collector.spans_of(1 + seen.len()).await;
    let server = of_kind(&spans, SERVER);
    assert_eq!(server.name, "initialize");
    assert_eq!(hex(&server.trace_id), parts(OF_MESSAGE).0);
    for request in seen {
        let (trace, told, flags) = parts(request.field("traceparent").expect("a traceparent"));
        let span = spans.iter().find(|span| hex(&span.span_id) == told).expect("its span");
        assert_eq!((trace, flags), (hex(&server.trace_id), "01".to_owned()));
        assert_eq!((&span.parent_span_id, span.kind), (&server.span_id, CLIENT));
        assert_eq!(
            (span.name.clone(), request.field("tracestate")),
            (request.method(), Some("a=1"))
        );
        says(span, &[("mcp.method.name", &request.method()), ("gen_ai.tool.name", "")]);
    }
}
