//! Tokens of others, with a stand-in identity provider over real HTTP: keys that come, go, fail and
//! rotate, and questions about tokens.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::Stage;
use crate::support::client::{Answer, DEADLINE};
use crate::support::gateway::Folder;
use crate::support::http2::Http2;
use crate::support::idp::{Idp, Key, PUBLIC_URL, in_seconds, json_answer, set};
use crate::support::message::Message;
use crate::support::upstream::{Step, Upstream, plain};

async fn stage(identity: &str) -> Stage {
    let upstream = Upstream::mcp("one").await;
    let sections = upstream.sections().replacen(
        "path: /mcp",
        &format!("path: /mcp, public_url: {PUBLIC_URL}"),
        1,
    );
    assert!(sections.contains(PUBLIC_URL), "{sections}");
    let sections = format!("{sections}identity: {{ {identity} }}\n");
    let gateway = crate::support::gateway::Gateway::start(&sections).await;
    Stage { gateway, upstream }
}

fn call(token: &str) -> Message {
    Message::call(7, "echo").and("authorization", &format!("Bearer {token}"))
}

async fn status(stage: &Stage, token: &str) -> u16 {
    stage.ask(&call(token)).await.status
}

fn unavailable(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (503, 503), "{}", answer.text());
    assert_eq!(answer.json()["error"]["message"], "identity cannot be checked now");
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(answer.field("www-authenticate"), None);
}

/// Asks until the answer has this status.
async fn until(stage: &Stage, token: &str, expected: u16) {
    let asked = async {
        while status(stage, token).await != expected {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(|_| panic!("never {expected}"));
}

#[tokio::test]
async fn a_signed_token_proves_its_caller_and_stays_at_the_gateway() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let stage = stage(&idp.jwt("")).await;
    let token = key.sign(&idp.claims("ann-of-the-idp"));
    for _ in 0..3 {
        assert_eq!(status(&stage, &token).await, 200);
    }
    let mut http2 = Http2::connect(stage.gateway.address).await;
    assert_eq!(http2.ask(&call(&token)).await.expect("an answer").status, 200);
    let seen = String::from_utf8_lossy(&stage.upstream.bytes()).into_owned();
    assert!(!seen.contains(&token[..40]), "the token reached the server");
    let log = stage.gateway.log(4).await;
    assert!(log.iter().any(|line| line.contains(r#""caller":"ann-of-the-idp""#)));
    assert!(log.iter().all(|line| !line.contains(&token[..40])), "a token in the log");
    assert_eq!(idp.http.take().len(), 1, "the keys were fetched once, before the first token");

    stage.upstream.take();
    let mut other = idp.claims("ann");
    other["aud"] = json!("https://mcp.example.com/other");
    let evil = Key::new("a").sign(&idp.claims("ann"));
    for bad in [key.sign(&other), evil, format!("{token}x")] {
        assert_eq!(status(&stage, &bad).await, 401);
    }
    let twice = call(&token).and("authorization", &format!("Bearer {token}"));
    assert_eq!(stage.ask(&twice).await.status, 400, "two credentials");
    let in_query = Message::call(7, "echo").at(&format!("/mcp?access_token={token}"));
    assert_eq!(stage.ask(&in_query).await.status, 401, "a token in the query");
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn keys_rotate_and_what_is_no_set_of_keys_changes_nothing() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let idp = Idp::start(&[&old]).await;
    let stage = stage(&idp.jwt(", refresh: 1s, cooldown: 1s, timeout: 1s")).await;
    let (first, second) = (old.sign(&idp.claims("ann")), new.sign(&idp.claims("ann")));
    assert_eq!(status(&stage, &first).await, 200);
    let stuck = Arc::new(Semaphore::new(0));
    let far = idp.issuer();
    let pages: Vec<Box<dyn Fn() -> Vec<Step> + Send>> = vec![
        Box::new(|| vec![plain(500, "", b"")]),
        Box::new(|| vec![json_answer(r#"{"keys":[]}"#)]),
        Box::new(|| vec![plain(200, "content-type: text/html\r\n", b"<html>")]),
        Box::new(|| vec![json_answer(&"x".repeat(1 << 20))]),
        Box::new(move || vec![plain(302, &format!("location: {far}/keys\r\n"), b"")]),
        Box::new(move || vec![Step::Wait(Arc::clone(&stuck))]),
        Box::new(|| vec![Step::Close]),
    ];
    for page in pages {
        idp.http.take();
        idp.serve(page);
        // At least one whole fetch of that page.
        let asked = async {
            while idp.http.take().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("a fetch");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(status(&stage, &first).await, 200);
    }
    idp.rotate(&[&new]);
    until(&stage, &second, 200).await;
    assert_eq!(status(&stage, &first).await, 401, "a key that is gone");
}

#[tokio::test]
async fn an_unknown_key_is_fetched_for_everybody_at_once_and_not_again() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let idp = Idp::start(&[&old]).await;
    let stage = stage(&idp.jwt(", cooldown: 1s")).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    idp.rotate(&[&old, &new]);
    idp.http.take();
    let token = new.sign(&idp.claims("ann"));
    let asked = (0..20).map(|_| status(&stage, &token));
    assert!(futures::future::join_all(asked).await.iter().all(|status| *status == 200));
    assert_eq!(idp.http.take().len(), 1, "one fetch for all of them");
    let began = tokio::time::Instant::now();
    for name in ["k0", "k1", "k2", "k3", "../../keys", "http://127.0.0.1/"] {
        let evil = Key::new(name).sign(&idp.claims("ann"));
        assert_eq!(status(&stage, &evil).await, 401, "{name}");
    }
    let most = 1 + began.elapsed().as_secs();
    let fetches = idp.http.take();
    assert!(fetches.len() as u64 <= most, "{} fetches", fetches.len());
    assert!(fetches.iter().all(|request| request.path == "/keys"));
}

#[tokio::test]
async fn without_any_keys_the_gateway_says_that_it_cannot_tell() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    idp.serve(|| vec![plain(500, "", b"")]);
    let stage = stage(&idp.jwt(", cooldown: 1s, timeout: 1s")).await;
    let token = key.sign(&idp.claims("ann"));
    unavailable(&stage.ask(&call(&token)).await);
    assert_eq!(status(&stage, "opaque").await, 401, "that is no token of this issuer");
    let mut other = idp.claims("ann");
    other["iss"] = json!("https://other.example.com");
    assert_eq!(status(&stage, &key.sign(&other)).await, 401, "nor is that");
    assert!(stage.upstream.bytes().is_empty());
    idp.rotate(&[&key]);
    until(&stage, &token, 200).await;
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_it_changes() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let folder = Folder::new();
    let file = folder.write("jwks.json", &set(&[&old]));
    let identity =
        format!("jwt: [{{ issuer: https://idp, jwks: {{ file: {} }} }}]", file.display());
    let stage = stage(&identity).await;
    let claims =
        json!({ "iss": "https://idp", "sub": "ann", "aud": PUBLIC_URL, "exp": in_seconds(600) });
    assert_eq!(status(&stage, &old.sign(&claims)).await, 200);
    folder.write("jwks.json", &set(&[&new]));
    until(&stage, &new.sign(&claims), 200).await;
    assert_eq!(status(&stage, &old.sign(&claims)).await, 401);
}

#[tokio::test]
async fn an_opaque_token_is_asked_about_once() {
    let idp = Idp::start(&[]).await;
    let stage = stage(&idp.introspection(", client_id: gw, client_secret: s3cret")).await;
    let good = json!({
        "active": true, "sub": "ann", "aud": PUBLIC_URL, "exp": in_seconds(600), "scope": "read",
    });
    idp.say(move || vec![Step::Pause(Duration::from_millis(200)), json_answer(&good.to_string())]);
    let asked = (0..10).map(|_| status(&stage, "opaque+token"));
    assert!(futures::future::join_all(asked).await.iter().all(|status| *status == 200));
    assert_eq!(status(&stage, "opaque+token").await, 200);
    let requests = idp.http.take();
    assert_eq!(requests.len(), 1, "one question for all of them");
    assert_eq!(requests[0].verb, "POST");
    assert_eq!(requests[0].field("authorization"), Some("Basic Z3c6czNjcmV0"));
    let form = String::from_utf8_lossy(&requests[0].body).into_owned();
    assert_eq!(form, "token=opaque%2Btoken&token_type_hint=access_token");
    let seen = String::from_utf8_lossy(&stage.upstream.bytes()).into_owned();
    assert!(!seen.contains("opaque+token"), "the token reached the server");
}

#[tokio::test]
async fn only_a_clear_yes_for_this_route_is_one() {
    let idp = Idp::start(&[]).await;
    let stage = stage(&idp.introspection(", timeout: 1s")).await;
    assert_eq!(status(&stage, "inactive").await, 401);
    let other = json!({ "active": true, "sub": "ann", "aud": "https://other" }).to_string();
    idp.say(move || vec![json_answer(&other)]);
    assert_eq!(status(&stage, "of-another-route").await, 401);
    assert_eq!(status(&stage, &"x".repeat(9000)).await, 401);
    idp.http.take();
    assert_eq!(status(&stage, "inactive").await, 401, "still");
    assert!(idp.http.take().is_empty(), "a no is believed for a while, too");
    let stuck = Arc::new(Semaphore::new(0));
    let pages: Vec<Box<dyn Fn() -> Vec<Step> + Send>> = vec![
        Box::new(|| vec![plain(500, "", b"")]),
        Box::new(|| vec![plain(401, "", b"")]),
        Box::new(|| vec![json_answer("{}")]),
        Box::new(|| vec![json_answer(&"x".repeat(1 << 20))]),
        Box::new(move || vec![Step::Wait(Arc::clone(&stuck))]),
        Box::new(|| vec![Step::Close]),
    ];
    for (number, page) in pages.into_iter().enumerate() {
        idp.say(page);
        unavailable(&stage.ask(&call(&format!("token-{number}"))).await);
    }
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn whoever_makes_up_tokens_cannot_flood_their_issuer() {
    let idp = Idp::start(&[]).await;
    let stage = stage(&idp.introspection(", rate: 3/h")).await;
    let good = json!({ "active": true, "sub": "ann", "aud": PUBLIC_URL }).to_string();
    idp.say(move || vec![json_answer(&good)]);
    assert_eq!(status(&stage, "known").await, 200);
    for number in 0..20 {
        let answer = stage.ask(&call(&format!("made-up-{number}"))).await;
        match number {
            0 | 1 => assert_eq!(answer.status, 200),
            _ => unavailable(&answer),
        }
    }
    assert_eq!(idp.http.take().len(), 3, "asked no more often than it may be");
    assert_eq!(status(&stage, "known").await, 200, "who is known need not be asked about");
}

#[tokio::test]
async fn issuers_are_asked_in_their_order() {
    let (first, second) = (Idp::start(&[]).await, Idp::start(&[]).await);
    let entry = |idp: &Idp| format!("{{ issuer: {0}, url: {0}/introspect }}", idp.issuer());
    let stage = stage(&format!("introspection: [{}, {}]", entry(&first), entry(&second))).await;
    let good = json!({ "active": true, "sub": "ann", "aud": PUBLIC_URL }).to_string();
    second.say(move || vec![json_answer(&good)]);
    assert_eq!(status(&stage, "of-the-second").await, 200);
    assert_eq!((first.http.take().len(), second.http.take().len()), (1, 1));
    assert_eq!(status(&stage, "of-the-second").await, 200);
    assert_eq!((first.http.take().len(), second.http.take().len()), (0, 0));
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_goes_on_with_the_next() {
    let key = Key::new("a");
    for kind in ["jwt", "introspection"] {
        let idp = Idp::start(&[&key]).await;
        let identity = match kind {
            "jwt" => idp.jwt("").replacen("jwt: [{", "jwt: [{ leeway: 0s,", 1),
            _ => idp.introspection(""),
        };
        let stage = stage(&identity).await;
        let ends_s = in_seconds(5);
        let token = |ends_s: u64| {
            let mut claims = idp.claims("ann");
            claims["exp"] = json!(ends_s);
            let signed = key.sign(&claims);
            claims["active"] = json!(true);
            idp.say(move || vec![json_answer(&claims.to_string())]);
            if kind == "jwt" { signed } else { format!("opaque-until-{ends_s}") }
        };
        let by = |token: &str, message: Message| {
            message.field("authorization", &format!("Bearer {token}"))
        };
        let long = token(in_seconds(600));
        let opened = stage.ask(&by(&long, Message::initialize())).await;
        let session = opened.session();
        let mut staying = stage.connect().await;
        staying.send(&by(&long, Message::stream(&session)).bytes()).await;
        staying.body_after_head("data: {}").await;

        let short = token(ends_s);
        let mut ending = stage.connect().await;
        ending.send(&by(&short, Message::stream(&session)).bytes()).await;
        ending.body_after_head("data: {}").await;
        ending.body_with("retry: ").await;
        assert!(in_seconds(0) >= ends_s, "{kind}: not before its time");
        while ending.part().await.is_some() {}
        assert!(ending.body_is_whole(), "{kind}: a clean end");
        assert_eq!(stage.ask(&by(&short, Message::stream(&session))).await.status, 401, "{kind}");

        let more = tokio::time::timeout(Duration::from_millis(300), staying.part()).await;
        assert!(more.is_err(), "{kind}: a token that holds keeps its stream");
        let mut again = stage.connect().await;
        again.send(&by(&long, Message::stream(&session)).bytes()).await;
        again.body_after_head("data: {}").await;
    }
}
