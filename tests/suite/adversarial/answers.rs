//! Servers that say more than they were asked: no caller may get what was meant for another.

use crate::support::Stage;
use crate::support::message::Message;
use crate::support::upstream::{Request, Step, Upstream, json_answer, plain, result};
use std::time::Duration;

const POISON: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 6\r\n\r\npoison";

/// Asks several times in a row; every answer must be the caller's own.
async fn check(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static, what: &str) {
    let stage = Stage::before(Upstream::start(script).await).await;
    for pause_ms in [0, 0, 60, 0, 60, 0] {
        let answer = stage.ask(&Message::call(7, "echo")).await;
        assert!(!answer.text().contains("poison"), "{what}: {}", answer.text());
        assert!([200, 204, 502].contains(&answer.status), "{what}");
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

fn own(request: &Request) -> Vec<Step> {
    json_answer(200, "", &result(&request.json()["id"], "own"))
}

#[tokio::test]
async fn an_answer_nobody_asked_for_goes_to_nobody() {
    let with_poison = |request: &Request| {
        let mut steps = own(request);
        steps.push(Step::Send(POISON.as_bytes().to_vec()));
        steps
    };
    check(with_poison, "at once").await;
    let later = |request: &Request| {
        let mut steps = own(request);
        steps.push(Step::Pause(Duration::from_millis(20)));
        steps.push(Step::Send(POISON.as_bytes().to_vec()));
        steps
    };
    let stage = Stage::before(Upstream::start(later).await).await;
    for _ in 0..4 {
        let answer = stage.ask(&Message::call(7, "echo")).await;
        assert!(answer.text().contains("own"), "later: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
}

#[tokio::test]
async fn a_body_where_none_belongs_is_no_answer() {
    let body = |status: u16| {
        move |_: &Request| {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", POISON.len());
            vec![
                Step::Send(head.into_bytes()),
                Step::Pause(Duration::from_millis(5)),
                Step::Send(POISON.as_bytes().to_vec()),
            ]
        }
    };
    check(body(204), "204 with a body").await;
    check(
        |_: &Request| vec![plain(200, "", b""), Step::Send(POISON.as_bytes().to_vec())],
        "an empty body",
    )
    .await;
}
