//! Who is calling: proof in one place, and none of it at the server.

use crate::support::Stage;
use crate::support::client::Answer;
use crate::support::gateway::Folder;
use crate::support::http2::Http2;
use crate::support::message::Message;
use serde_json::Value;

fn digest(key: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn stage(anonymous: &str) -> Stage {
    let (ann, bob) = (digest("key-of-ann"), digest("key-of-bob"));
    Stage::with(&format!(
        "identity: {{ anonymous: {anonymous}, api_keys: [{{ caller: ann, sha256: {ann} }}, {{ caller: bob, sha256: {bob} }}] }}\n"
    ))
    .await
}

fn refused(answer: &Answer, challenge: &str, what: &str) {
    assert_eq!((answer.status, answer.code()), (401, 401), "{what}: {}", answer.text());
    assert_eq!(answer.field("www-authenticate"), Some(challenge), "{what}");
    assert_eq!(answer.json()["id"], Value::Null, "{what}");
}

const INVALID: &str = r#"Bearer error="invalid_token""#;

#[tokio::test]
async fn a_key_proves_its_caller_and_nothing_else_does() {
    let stage = stage("deny").await;
    let call = Message::call(7, "echo");
    let bad = [
        "Bearer nobody",
        "Bearer",
        "Bearer ",
        "Basic a2V5LW9mLWFubg==",
        "key-of-ann",
        "bearer key-of-ann, key-of-bob",
        "Bearer KEY-OF-ANN",
    ];
    for value in bad {
        let mut http2 = Http2::connect(stage.gateway.address).await;
        let message = call.clone().and("authorization", value);
        refused(&stage.ask(&message).await, INVALID, value);
        refused(&http2.ask(&message).await.expect("an answer"), INVALID, value);
    }
    refused(&stage.ask(&call).await, "Bearer", "no credential");
    refused(
        &stage.ask(&call.clone().at("/mcp?access_token=key-of-ann")).await,
        "Bearer",
        "a key in the query",
    );
    refused(
        &stage.ask(&call.clone().and("x-api-key", "key-of-ann")).await,
        "Bearer",
        "another header",
    );
    refused(&stage.ask(&Message::stream("x")).await, "Bearer", "GET");
    refused(&stage.ask(&Message::end("x")).await, "Bearer", "DELETE");
    // Who is not known learns nothing of bodies: no parse error, no limit.
    refused(&stage.ask(&call.clone().with_body("{")).await, "Bearer", "a bad body");
    assert!(stage.upstream.bytes().is_empty());
    for value in ["Bearer key-of-ann", "bearer key-of-bob", "BEARER  key-of-bob "] {
        assert_eq!(
            stage.ask(&call.clone().and("authorization", value)).await.status,
            200,
            "{value}"
        );
    }
    let log = stage.gateway.log(23).await;
    assert!(log.iter().any(|line| line.contains(r#""caller":"ann""#)));
    assert!(log.iter().all(|line| !line.contains("key-of-ann")), "a key in the log");
}

#[tokio::test]
async fn a_bad_proof_is_not_anonymous() {
    let stage = stage("allow").await;
    let call = Message::call(7, "echo");
    assert_eq!(stage.ask(&call).await.status, 200);
    stage.upstream.take();
    refused(&stage.ask(&call.and("authorization", "Bearer nobody")).await, INVALID, "a bad key");
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn no_credential_and_no_claim_about_the_client_reaches_the_server() {
    let stage = stage("allow").await;
    let message = Message::call(7, "echo")
        .and("authorization", "Bearer key-of-ann")
        .and("proxy-authorization", "Basic secret-value")
        .and("cookie", "sid=secret-value")
        .and("x-forwarded-for", "6.6.6.6")
        .and("x-forwarded-client-cert", "secret-value")
        .and("x-toolgate-caller", "secret-value")
        .and("x-real-ip", "6.6.6.6")
        .and("forwarded", "for=6.6.6.6")
        .and("origin", "http://localhost")
        .and("referer", "http://localhost/secret-value")
        .and("sec-fetch-site", "secret-value")
        .and("accept-encoding", "gzip")
        .and("te", "trailers")
        .and("x-request-id", "secret-value")
        .and("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .and("mcp-param-region", "eu")
        .and("x-own", "kept")
        .and("connection", "close");
    let mut http2 = Http2::connect(stage.gateway.address).await;
    let first = stage.ask(&message).await;
    let second = http2.ask(&message.without("connection")).await.expect("an answer");
    assert_eq!((first.status, second.status), (200, 200));
    let bytes = String::from_utf8_lossy(&stage.upstream.bytes()).into_owned();
    for secret in ["key-of-ann", "secret-value", "6.6.6.6", "gzip", "trailers"] {
        assert!(!bytes.contains(secret), "{secret} in {bytes}");
    }
    for request in stage.upstream.take() {
        let own = stage.upstream.address.to_string();
        assert_eq!(request.field("host"), Some(own.as_str()));
        assert_eq!(request.field("x-own"), Some("kept"));
        assert_eq!(request.field("mcp-param-region"), Some("eu"));
        assert!(request.field("traceparent").is_some_and(|trace| trace.starts_with("00-0af7")));
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.path, "/mcp");
        // The id in the log, at the server and in the answer is one.
        let id = request.field("x-request-id").map(str::to_owned);
        assert!(
            id == first.field("x-request-id").map(str::to_owned)
                || id == second.field("x-request-id").map(str::to_owned)
        );
    }
}

#[tokio::test]
async fn nothing_of_the_server_reaches_the_clients_origin() {
    use crate::support::upstream::{Upstream, plain};
    let fields = "set-cookie: a=b\r\naccess-control-allow-origin: *\r\nstrict-transport-security: max-age=1\r\nkeep-alive: timeout=5\r\nx-request-id: own\r\nx-own: kept\r\n";
    let stage =
        Stage::before(Upstream::start(move |_| vec![plain(200, fields, b"{}")]).await).await;
    let answer = stage.ask(&Message::call(7, "echo")).await;
    for name in
        ["set-cookie", "access-control-allow-origin", "strict-transport-security", "keep-alive"]
    {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert_eq!(answer.field("x-own"), Some("kept"));
    assert_ne!(answer.field("x-request-id"), Some("own"));
}

#[tokio::test]
async fn keys_may_stand_in_a_file() {
    let folder = Folder::new();
    let keys = folder
        .write("keys.yaml", &format!("- {{ caller: ann, sha256: {} }}\n", digest("key-of-ann")));
    let stage =
        Stage::with(&format!("identity: {{ api_keys: {{ file: {} }} }}\n", keys.display())).await;
    let call = Message::call(7, "echo");
    assert_eq!(stage.ask(&call).await.status, 401);
    assert_eq!(stage.ask(&call.and("authorization", "Bearer key-of-ann")).await.status, 200);
}
