//! Servers that are away, slow, or break HTTP: a good answer in both eras, and no call runs twice.

use crate::support::Stage;
use crate::support::client::{self, Answer, Client};
use crate::support::gateway::{Gateway, free_address};
use crate::support::http2::{Http2, Http2Upstream, Reaction};
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, chunk, event, events_end, events_head, json_answer, mcp, plain,
    result, sections,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A call of each era.
fn calls() -> [Message; 2] {
    [Message::call(7, "echo"), Message::legacy_call(7, "echo", "").without("mcp-session-id")]
}

/// Both eras over both versions of HTTP get this refusal with the request's id.
async fn fails(gateway: &Gateway, what: &str, status: u16) {
    let mut http2 = Http2::connect(gateway.address).await;
    for call in calls() {
        let mut connection = Client::connect(gateway.address).await;
        connection.send(&call.bytes()).await;
        let answers = [connection.answer().await, http2.ask(&call).await.expect("an answer")];
        for answer in answers {
            let found = (answer.status, answer.code(), answer.json()["id"].clone());
            assert_eq!(found, (status, i64::from(status), json!(7)), "{what}: {}", answer.text());
            assert_eq!(answer.field("content-type"), Some("application/json"), "{what}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_502() {
    let away = format!("http://{}/mcp", free_address());
    for balance in ["", ", balance: { algorithm: least_request }"] {
        let gateway = Gateway::start(&sections(std::slice::from_ref(&away), balance)).await;
        fails(&gateway, "connection refused", 502).await;
        let initialize = client::exchange(gateway.address, &Message::initialize().bytes()).await;
        assert_eq!((initialize.status, initialize.json()["id"].clone()), (502, json!(1)));
        let metrics = gateway.metrics_with("toolgate_upstream_errors_total{").await;
        assert!(metrics.contains(r#"reason="endpoint_unreachable""#), "{metrics}");
    }
    let gateway = Gateway::start(&sections(&[away], ", protocol: http2")).await;
    fails(&gateway, "connection refused for HTTP/2", 502).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_503() {
    let gateway =
        Gateway::start(&sections(&["http://no-such-host.invalid:80/mcp".to_owned()], "")).await;
    fails(&gateway, "no address", 503).await;
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_502() {
    let answers: [(&str, &[u8]); 13] = [
        ("garbage", b"garbage garbage\r\n\r\n"),
        ("binary", b"\x16\x03\x01\x02\x00\x01\x00"),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
        ("nothing", b""),
        ("no status", b"HTTP/1.1\r\n\r\n"),
        ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
        (
            "length and chunks",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("another coding", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("a bad length", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
        (
            "a bad chunk",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"jso\r\nzz\r\n",
        ),
        ("switched protocols", b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"),
        ("a response for nobody", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ];
    for (what, bytes) in answers {
        let script = move |_: &Request| vec![Step::Send(bytes.to_vec()), Step::Close];
        let upstream = Upstream::start(script).await;
        let gateway = Gateway::start(&upstream.sections()).await;
        fails(&gateway, what, 502).await;
        assert_eq!(upstream.take().len(), 4, "{what}: a call runs once");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20)).into_bytes();
    let script = move |_: &Request| vec![Step::Send(endless.clone()), Step::Close];
    let gateway_before = Upstream::start(script).await;
    let gateway = Gateway::start(&gateway_before.sections()).await;
    fails(&gateway, "an endless head", 502).await;
}

#[tokio::test]
async fn an_answer_of_http2_that_is_reset_is_502() {
    let upstream = Http2Upstream::start(|_| Reaction::Reset).await;
    let gateway = Gateway::start(&sections(&[upstream.url()], ", protocol: http2")).await;
    fails(&gateway, "a reset", 502).await;
}

#[tokio::test]
async fn an_answer_that_is_cut_is_cut_for_the_client_too() {
    let rows: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"jsonrpc\":",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"jso\r\n",
    ];
    for bytes in rows {
        let script = move |_: &Request| vec![Step::Send(bytes.to_vec()), Step::Close];
        let stage = Stage::before(Upstream::start(script).await).await;
        for call in calls() {
            let mut client = stage.connect().await;
            client.send(&call.bytes()).await;
            assert_eq!(client.head().await.status, 200);
            while client.part().await.is_some() {}
            assert!(!client.body_is_whole(), "half an answer looks whole");
            let mut http2 = Http2::connect(stage.gateway.address).await;
            assert!(http2.ask(&call).await.is_err(), "half an answer looks whole over HTTP/2");
            // The connection lives on.
            assert!(http2.ask(&Message::end("x")).await.is_ok());
        }
        assert_eq!(stage.upstream.take().len(), 4, "a call runs once");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_as_well_as_it_can() {
    let script = |_: &Request| {
        vec![events_head(""), event(r#"{"method":"notifications/progress"}"#), Step::Close]
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let [modern, legacy] = calls();
    // A modern client learns that its request is lost.
    let mut http2 = Http2::connect(stage.gateway.address).await;
    for answer in [stage.ask(&modern).await, http2.ask(&modern).await.expect("a clean end")] {
        let text = answer.text();
        let last = text.trim_end().rsplit("data: ").next().unwrap_or_default();
        let last: Value = serde_json::from_str(last).expect("an event");
        assert_eq!((&last["id"], &last["error"]["code"]), (&json!(7), &json!(502)), "{text}");
    }
    // A legacy one may come back for the rest, so it gets nothing more.
    for answer in [stage.ask(&legacy).await, http2.ask(&legacy).await.expect("a clean end")] {
        assert!(answer.text().ends_with("progress\"}\n\n"), "{}", answer.text());
    }
    // In the middle of an event nothing can be added: the answer is cut.
    let script = |_: &Request| vec![events_head(""), chunk("data: {\"half\":"), Step::Close];
    let stage = Stage::before(Upstream::start(script).await).await;
    for call in calls() {
        let mut client = stage.connect().await;
        client.send(&call.bytes()).await;
        assert_eq!(client.head().await.status, 200);
        while client.part().await.is_some() {}
        assert!(!client.body_is_whole());
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_in_time_is_504() {
    let gate = Arc::new(Semaphore::new(0));
    let script = move |_: &Request| vec![Step::Wait(Arc::clone(&gate))];
    let upstream = Upstream::start(script).await;
    let timeouts = ", timeouts: { first_byte: 300ms }";
    let gateway = Gateway::start(&sections(&[upstream.url()], timeouts)).await;
    fails(&gateway, "silence", 504).await;
    assert!(upstream.left(4).await, "who is given up is closed");
    gateway.metrics_with(r#"toolgate_refusals_total{reason="endpoint_timeout"} 4"#).await;
}

#[tokio::test]
async fn an_answer_that_stops_is_cut_in_time() {
    let gate = Arc::new(Semaphore::new(0));
    let script = move |request: &Request| {
        let is_stream = request.field("mcp-name") == Some("stream");
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
        match is_stream {
            true => vec![events_head(""), event("{}"), Step::Wait(Arc::clone(&gate))],
            false => vec![Step::Send(head.as_bytes().to_vec()), Step::Wait(Arc::clone(&gate))],
        }
    };
    let upstream = Upstream::start(script).await;
    let timeouts = ", timeouts: { total: 400ms, stream_idle: 700ms, first_byte: 300ms }";
    let gateway = Gateway::start(&sections(&[upstream.url()], timeouts)).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&Message::call(7, "echo").bytes()).await;
    assert_eq!(client.head().await.status, 200);
    while client.part().await.is_some() {}
    assert!(!client.body_is_whole());
    let mut client = Client::connect(gateway.address).await;
    client.send(&Message::call(7, "stream").bytes()).await;
    client.body_after_head("504").await;
    while client.part().await.is_some() {}
    assert!(client.body_is_whole(), "a stream ends between events");
}

#[tokio::test]
async fn a_call_goes_elsewhere_when_its_endpoint_is_away() {
    let alive = Upstream::mcp("alive").await;
    let away = || format!("http://{}/mcp", free_address());
    for balance in ["", ", balance: { algorithm: least_request }"] {
        let gateway = Gateway::start(&sections(&[away(), alive.url(), away()], balance)).await;
        for id in 0..12 {
            for call in [Message::call(id, "echo"), Message::initialize()] {
                let answer = client::exchange(gateway.address, &call.bytes()).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }
    }
    assert_eq!(alive.take().len(), 48);
}

#[tokio::test]
async fn equal_keys_meet_on_one_replica_whatever_is_hashed() {
    let replicas = [Upstream::mcp("a").await, Upstream::mcp("b").await, Upstream::mcp("c").await];
    let urls: Vec<String> = replicas.iter().map(Upstream::url).collect();
    let digest = |number: usize| {
        let key = format!("key-{number}");
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    // Callers 0, 2, 4 ... belong to one tenant, the others to another.
    let key = |n: usize| format!("{{ caller: c{n}, tenant: t{}, sha256: {} }}", n % 2, digest(n));
    let keys: Vec<String> = (0..20).map(key).collect();
    // What is hashed, what tells the key of call `n`, and at how many replicas twenty calls end.
    type KeyOf = fn(usize) -> usize;
    let rows: [(&str, KeyOf, bool); 4] = [
        ("caller", |n| n, true),
        ("tenant", |n| n % 2, false),
        ("header:x-team", |n| n / 2, true),
        ("tool", |_| 0, false),
    ];
    for (hashed, key_of, spreads) in rows {
        let more = format!(", balance: {{ key: \"{hashed}\" }}");
        let identity = format!("identity: {{ api_keys: [{}] }}\n", keys.join(", "));
        let gateway = Gateway::start(&format!("{}{identity}", sections(&urls, &more))).await;
        let mut homes = std::collections::HashMap::new();
        for n in (0..20).chain(0..20) {
            let call = Message::call(1, "echo")
                .field("authorization", &format!("Bearer key-{n}"))
                .field("x-team", &format!("team-{}", n / 2));
            let answer = client::exchange(gateway.address, &call.bytes()).await;
            let home = answer.json()["result"]["content"][0]["text"].clone();
            assert!(home.is_string(), "{}", answer.text());
            let known = homes.entry(key_of(n)).or_insert_with(|| home.clone());
            assert_eq!(*known, home, "{hashed}: the key of call {n} moved");
        }
        let met: std::collections::HashSet<String> = homes.values().map(Value::to_string).collect();
        // Ten keys that all meet on one of three replicas would be one chance in twenty thousand.
        assert!(met.len() > 1 || !spreads, "{hashed} {met:?}");
        assert!(met.len() <= homes.len(), "{hashed} {met:?}");
    }
}

/// A server that closes a kept connection on the second request it gets there, without a word.
fn closes_on_the_second(request: &Request) -> Vec<Step> {
    match request.place.1 {
        0 => mcp("one", request),
        _ => vec![Step::Close],
    }
}

/// Sends a read and then `message`, until the second came on the first one's connection: the
/// gateway may still be putting that back when the second arrives. Returns the second's answer and
/// the places of both at the server.
async fn on_a_stale_connection(message: &Message) -> (Answer, Vec<(usize, usize)>) {
    let list = Message::modern(1, "tools/list", json!({}));
    for _ in 0..50 {
        let stage = Stage::before(Upstream::start(closes_on_the_second).await).await;
        assert_eq!(stage.ask(&list).await.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = stage.ask(message).await;
        let seen: Vec<_> = stage.upstream.take().iter().map(|request| request.place).collect();
        if seen.contains(&(0, 1)) {
            return (answer, seen);
        }
    }
    panic!("no connection was used twice");
}

#[tokio::test]
async fn a_stale_connection_is_retried_only_for_what_may_run_twice() {
    // What only reads is asked again on a new connection.
    let list = Message::modern(2, "tools/list", json!({}));
    let (answer, seen) = on_a_stale_connection(&list).await;
    assert_eq!((answer.status, seen), (200, vec![(0, 0), (0, 1), (1, 0)]));
    // A call may have run, so the client is told.
    for call in [
        Message::call(2, "echo"),
        Message::legacy_call(2, "echo", "").without("mcp-session-id"),
        Message::modern(2, "skills/run", json!({})),
    ] {
        let (answer, seen) = on_a_stale_connection(&call).await;
        assert_eq!((answer.status, answer.json()["id"].clone()), (502, json!(2)));
        assert_eq!(seen, [(0, 0), (0, 1)], "the call ran twice");
    }
}

#[tokio::test]
async fn a_server_that_restarts_between_calls_costs_none() {
    let upstream = Upstream::mcp("one").await;
    let address = upstream.address;
    let gateway = Gateway::start(&upstream.sections()).await;
    let call = Message::call(1, "echo").bytes();
    assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
    drop(upstream);
    let _upstream = Upstream::start_at(address, |request| mcp("one", request)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
}

#[tokio::test]
async fn a_server_of_http2_that_restarts_between_calls_costs_none() {
    let answer: fn(&Request) -> Reaction =
        |_| Reaction::Answer { status: 200, fields: Vec::new(), body: b"{}".to_vec() };
    let upstream = Http2Upstream::start(answer).await;
    let address = upstream.address;
    let gateway = Gateway::start(&sections(&[upstream.url()], ", protocol: http2")).await;
    let call = Message::call(1, "echo").bytes();
    assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
    drop(upstream);
    let _upstream = Http2Upstream::start_at(address, answer).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
}

#[tokio::test]
async fn connections_to_servers_are_kept_and_used_again() {
    let stage = Stage::mcp().await;
    for id in 0..10 {
        assert_eq!(stage.ask(&Message::call(id, "echo")).await.status, 200);
    }
    // One, but for a call that came while the connection was being put back.
    assert!(stage.upstream.connections() < 5, "{}", stage.upstream.connections());
    // A connection that the server closes is not used again.
    let closing = |request: &Request| {
        let mut steps =
            json_answer(200, "connection: close\r\n", &result(&request.json()["id"], "x"));
        steps.push(Step::Close);
        steps
    };
    let stage = Stage::before(Upstream::start(closing).await).await;
    for id in 0..5 {
        assert_eq!(stage.ask(&Message::call(id, "echo")).await.status, 200);
    }
    assert_eq!(stage.upstream.connections(), 5);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_counts() {
    // A server that reads the head only, refuses and closes.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    let gateway = Gateway::start(&sections(&[url], "")).await;
    let server = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut some = vec![0; 1000];
        stream.read_exact(&mut some).await.expect("a part");
        let refusal = "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(refusal.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("closed");
        // Reading on keeps the refusal from being lost in a reset.
        while stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
    };
    let large = json!({ "name": "echo", "arguments": { "a": "x".repeat(3 << 20) } });
    let message = Message::modern(7, "tools/call", large).bytes();
    let (answer, ()) = tokio::join!(client::exchange(gateway.address, &message), server);
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let script = |request: &Request| {
        let mut steps = vec![Step::Send(
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n".to_vec(),
        )];
        steps.extend(mcp("one", request));
        steps
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    assert_eq!(stage.ask(&Message::call(1, "echo")).await.status, 200);
}

#[tokio::test]
async fn errors_of_servers_are_passed_on_as_they_are() {
    for status in [400, 401, 403, 404, 409, 422, 429, 500, 501, 503] {
        let script = move |_: &Request| {
            vec![plain(
                status,
                "content-type: text/plain\r\nretry-after: 7\r\nx-own: y\r\n",
                b"own words",
            )]
        };
        let stage = Stage::before(Upstream::start(script).await).await;
        for call in calls() {
            let answer = stage.ask(&call).await;
            assert_eq!((answer.status, answer.text().as_str()), (status, "own words"));
            assert_eq!(
                (answer.field("retry-after"), answer.field("x-own")),
                (Some("7"), Some("y"))
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let address = free_address();
    let gateway = Gateway::start(&sections(&[format!("http://{address}/mcp")], "")).await;
    fails(&gateway, "away", 502).await;
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let upstream = Upstream::start_at(address, move |request| {
        up.store(true, Ordering::Relaxed);
        mcp("one", request)
    })
    .await;
    let answer = client::exchange(gateway.address, &Message::call(1, "echo").bytes()).await;
    assert!(answer.status == 200 && is_up.load(Ordering::Relaxed));
    drop(upstream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    fails(&gateway, "away again", 502).await;
}

#[tokio::test]
async fn a_whole_stream_ends_whole_even_if_the_server_then_closes() {
    let script = |request: &Request| {
        let answer = result(&request.json()["id"], "done").to_string();
        vec![events_head(""), event(&answer), events_end(), Step::Close]
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    for call in calls() {
        let answer = stage.ask(&call).await;
        assert!(
            answer.text().ends_with("}\n\n") && !answer.text().contains("error"),
            "{}",
            answer.text()
        );
    }
}
