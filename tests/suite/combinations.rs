//! What may not follow what, on real calls: within a session, within a time, and at once.

use crate::policy_calls::{by, session_of, stage, willing};
use crate::support::Stage;
use crate::support::client::{Answer, exchange};
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::upstream::{Request, Step, Upstream, json_answer, mcp, result, sections};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

fn policy(within: &str) -> String {
    format!(
        "policy:
  labels: {{ secret: [get_secret], egress: ['send_*'] }}
  combinations:
    - {{ name: no-leak, after: secret, deny: egress, within: {within} }}
"
    )
}

fn modern(caller: &str, tool: &str) -> Message {
    by(caller, Message::call(5, tool))
}

fn legacy(caller: &str, tool: &str, session: &str) -> Message {
    by(caller, Message::legacy_call(5, tool, session))
}

fn refused(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (403, 403), "{}", answer.text());
    assert_eq!(answer.json()["id"], 5);
    assert_eq!(answer.field("www-authenticate"), None, "no scope would help");
    assert!(!answer.text().contains("no-leak"), "the rule's name is nobody's business");
}

async fn passes(stage: &Stage, message: &Message) {
    let answer = stage.ask(message).await;
    assert_eq!((answer.status, answer.code()), (200, 0), "{}", answer.text());
    assert_eq!(stage.upstream.take().len(), 1);
}

async fn is_refused(stage: &Stage, message: &Message) {
    refused(&stage.ask(message).await);
    assert!(stage.upstream.bytes().is_empty(), "the server was asked");
}

#[tokio::test]
async fn in_a_session_nothing_leaves_after_the_secret() {
    let stage = stage(willing().await, &policy("session")).await;
    let (one, two) = (session_of(&stage, "ann").await, session_of(&stage, "ann").await);
    let of_bob = session_of(&stage, "bob").await;
    passes(&stage, &legacy("ann", "send_mail", &one)).await;
    passes(&stage, &legacy("ann", "get_secret", &one)).await;
    for tool in ["send_mail", "send_file"] {
        is_refused(&stage, &legacy("ann", tool, &one)).await;
    }
    // Neither what is no label's, nor another session, nor another caller.
    passes(&stage, &legacy("ann", "echo", &one)).await;
    passes(&stage, &legacy("ann", "get_secret", &one)).await;
    passes(&stage, &legacy("ann", "send_mail", &two)).await;
    passes(&stage, &legacy("bob", "send_mail", &of_bob)).await;
    passes(&stage, &modern("bob", "send_mail")).await;
    // Leaving the session is no way out.
    is_refused(&stage, &modern("ann", "send_mail")).await;
    let metrics = stage.gateway.metrics_with(r#"reason="combination_forbidden"} 3"#).await;
    assert!(metrics.contains(r#"reason="policy_hidden"} 0"#), "{metrics}");
    // A session that is over has no marks, and the caller has them still.
    assert_eq!(stage.ask(&by("ann", Message::end(&one))).await.status, 204);
    stage.upstream.take();
    is_refused(&stage, &modern("ann", "send_mail")).await;
}

#[tokio::test]
async fn within_a_time_the_caller_counts_in_either_era() {
    let stage = stage(willing().await, &policy("10m")).await;
    let session = session_of(&stage, "ann").await;
    passes(&stage, &modern("ann", "send_mail")).await;
    passes(&stage, &modern("ann", "get_secret")).await;
    is_refused(&stage, &modern("ann", "send_mail")).await;
    is_refused(&stage, &legacy("ann", "send_mail", &session)).await;
    passes(&stage, &modern("bob", "send_mail")).await;
    let of_bob = session_of(&stage, "bob").await;
    passes(&stage, &legacy("bob", "get_secret", &of_bob)).await;
    is_refused(&stage, &modern("bob", "send_mail")).await;
}

#[tokio::test]
async fn after_its_time_the_secret_is_forgotten() {
    let stage = stage(willing().await, &policy("1s")).await;
    passes(&stage, &modern("ann", "get_secret")).await;
    let began = Instant::now();
    loop {
        let answer = stage.ask(&modern("ann", "send_mail")).await;
        if answer.status == 200 {
            break;
        }
        refused(&answer);
        assert!(began.elapsed() < Duration::from_secs(15), "never forgotten");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn in_shadow_it_lets_pass() {
    let shadow = policy("10m").replacen("name: no-leak", "name: no-leak, mode: shadow", 1);
    let stage = stage(willing().await, &shadow).await;
    passes(&stage, &modern("ann", "get_secret")).await;
    passes(&stage, &modern("ann", "send_mail")).await;
}

#[tokio::test]
async fn marks_outlive_a_reload() {
    let stage = stage(willing().await, &policy("10m")).await;
    passes(&stage, &modern("ann", "get_secret")).await;
    let yaml = stage.gateway.config().replacen("endpoints:", "owner: a-team, endpoints:", 1);
    std::fs::write(stage.gateway.folder().join("toolgate.yaml"), yaml).expect("written");
    stage.gateway.signal("HUP");
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 1"#).await;
    is_refused(&stage, &modern("ann", "send_mail")).await;
}

#[tokio::test]
async fn a_secret_that_no_server_was_asked_for_leaves_no_mark() {
    let address = free_address();
    let url = format!("http://{address}/mcp");
    let gateway = Gateway::start(&format!("{}{}", sections(&[url], ""), policy("10m"))).await;
    let address_of_gateway = gateway.address;
    let ask = |tool: &str| {
        let bytes = Message::call(5, tool).bytes();
        async move { exchange(address_of_gateway, &bytes).await }
    };
    let answer = ask("get_secret").await;
    assert!([502, 503].contains(&answer.status), "{}", answer.text());
    gateway.log(1).await;
    let _upstream = Upstream::start_at(address, |request| match request.method().as_str() {
        "tools/call" => json_answer(200, "", &result(&request.json()["id"], "done")),
        _ => mcp("one", request),
    })
    .await;
    let began = Instant::now();
    loop {
        // An endpoint that failed may be left alone for a while, which is no refusal.
        let answer = ask("send_mail").await;
        if answer.status == 200 {
            break;
        }
        assert!([502, 503].contains(&answer.status), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(15), "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask("get_secret").await.status, 200);
    refused(&ask("send_mail").await);
}

/// A server whose secrets take until the gate opens.
async fn slow(gate: &Arc<Semaphore>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(move |request| {
        let message = request.json();
        let answer = json_answer(200, "", &result(&message["id"], "done"));
        match message["params"]["name"].as_str() {
            Some("get_secret") => {
                let wait = Step::Wait(Arc::clone(&gate));
                std::iter::once(wait).chain(answer).collect()
            }
            Some(_) => answer,
            None => mcp("one", request),
        }
    })
    .await
}

#[tokio::test]
async fn a_secret_that_is_still_running_counts_and_so_does_one_that_was_left() {
    for is_left in [false, true] {
        let gate = Arc::new(Semaphore::new(0));
        let stage = stage(slow(&gate).await, &policy("10m")).await;
        let mut running = stage.connect().await;
        running.send(&modern("ann", "get_secret").bytes()).await;
        assert!(stage.upstream.reached(1).await);
        stage.upstream.take();
        is_refused(&stage, &modern("ann", "send_mail")).await;
        passes(&stage, &modern("bob", "send_mail")).await;
        if is_left {
            // The server had it by then, and may have done what it was asked for.
            drop(running);
            assert!(stage.upstream.left(1).await);
        } else {
            gate.add_permits(1);
            assert_eq!(running.answer().await.status, 200);
        }
        is_refused(&stage, &modern("ann", "send_mail")).await;
    }
}

#[tokio::test]
async fn of_many_at_once_none_leaves_after_the_first_secret() {
    let gate = Arc::new(Semaphore::new(0));
    let stage = stage(slow(&gate).await, &policy("10m")).await;
    let mut secret = stage.connect().await;
    secret.send(&modern("ann", "get_secret").bytes()).await;
    let mail = modern("ann", "send_mail");
    let racing = futures::future::join_all((0..20).map(|_| stage.ask(&mail))).await;
    // Some may have been first; whoever was refused was refused before the server was asked.
    let sent = racing.iter().filter(|answer| answer.status == 200).count();
    racing.iter().filter(|answer| answer.status != 200).for_each(refused);
    let is_mail = |request: &&Request| request.json()["params"]["name"] == "send_mail";
    assert!(stage.upstream.reached(sent + 1).await);
    let requests = stage.upstream.take();
    assert_eq!(requests.iter().filter(is_mail).count(), sent);
    assert_eq!(requests.len(), sent + 1, "the secret is at the server");
    // It has begun, so from now on nothing leaves.
    for answer in futures::future::join_all((0..20).map(|_| stage.ask(&mail))).await {
        refused(&answer);
    }
    assert!(stage.upstream.bytes().is_empty());
    gate.add_permits(1);
    assert_eq!(secret.answer().await.status, 200);
}
