//! The collector: it gets all that it takes, and one that takes nothing holds nobody back.

use crate::support::Stage;
use crate::support::collector::{Collector, text};
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::upstream::{Step, Upstream, plain};
use opentelemetry_proto::tonic::metrics::v1::metric::Data as Points;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

async fn stage(collector: &Collector, export: &str, more: &str) -> Stage {
    Stage::with(&format!("{}{more}", collector.section(export))).await
}

#[tokio::test]
async fn what_is_left_is_sent_at_the_end() {
    let collector = Collector::start().await;
    let mut stage = stage(&collector, "sample: 1", "").await;
    for number in 0..50 {
        assert_eq!(stage.ask(&Message::call(number, "echo")).await.status, 200);
    }
    stage.gateway.signal("TERM");
    assert_eq!(stage.gateway.ended().await, Some(0));
    assert_eq!(collector.spans().len(), 100);
    let metrics = collector.metrics();
    let find = |name: &str| metrics.iter().find(|metric| metric.name == name).expect("a metric");
    let Some(Points::Sum(calls)) = &find("toolgate_requests_total").data else { panic!("a sum") };
    let echo = calls.data_points.iter().find(|point| {
        let says = |key| text(&point.attributes, key);
        (says("tool"), says("outcome")) == ("echo".to_owned(), "ok".to_owned())
    });
    let echo = echo.expect("the calls");
    let fifty = opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsDouble(50.0);
    assert_eq!(echo.value, Some(fifty));
    assert!(echo.start_time_unix_nano < echo.time_unix_nano);
}

#[tokio::test]
async fn metrics_come_at_their_interval_under_the_names_of_the_conventions() {
    let collector = Collector::start().await;
    let stage = stage(&collector, "sample: 0, metrics_interval: 200ms", "").await;
    stage.ask(&Message::call(1, "echo")).await;
    stage.ask(&Message::call(2, "unknown")).await;
    let points = |name: &str| {
        let metrics = collector.metrics();
        let metric = metrics.into_iter().find(|metric| metric.name == name)?;
        assert_eq!(metric.unit, "s");
        match metric.data {
            Some(Points::Histogram(histogram)) => Some(histogram.data_points),
            other => panic!("{other:?}"),
        }
    };
    for name in ["mcp.server.operation.duration", "mcp.client.operation.duration"] {
        collector.wait(|| points(name).is_some_and(|points| points.len() == 2), name).await;
        for point in points(name).expect("points") {
            let bounds =
                [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
            assert_eq!(point.explicit_bounds, bounds);
            assert_eq!((point.count, point.bucket_counts.iter().sum()), (1, 1));
            assert_eq!(text(&point.attributes, "mcp.method.name"), "tools/call");
            assert_eq!(text(&point.attributes, "toolgate.server"), "one");
            let error = text(&point.attributes, "error.type");
            let tool = text(&point.attributes, "gen_ai.tool.name");
            // What only a client has named is no label.
            let known = [("", "echo"), ("-32602", "other")];
            assert!(known.contains(&(error.as_str(), tool.as_str())), "{point:?}");
        }
    }
    assert!(collector.spans().is_empty());
    stage.gateway.metrics_with("mcp_server_operation_duration_seconds_count").await;
    let before = collector.requests().len();
    collector.wait(|| collector.requests().len() > before + 1, "more metrics").await;
}

#[tokio::test]
async fn nothing_secret_leaves() {
    let collector = Collector::start().await;
    let digest = ring::digest::digest(&ring::digest::SHA256, b"key-of-ann");
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let identity = format!(
        "identity: {{ anonymous: deny, api_keys: [{{ caller: ann, sha256: {digest} }}] }}\n"
    );
    let export = "sample: 1, headers: { X-Api-Key: key-of-the-collector }, metrics_interval: 100ms";
    let mut stage = stage(&collector, export, &identity).await;
    let key = |message: Message| message.field("authorization", "Bearer key-of-ann");
    let session = stage.ask(&key(Message::initialize())).await.session();
    let call = key(Message::legacy_call(2, "echo", &session)).field("cookie", "canary");
    assert_eq!(stage.ask(&call).await.status, 200);
    let stranger = Message::call(1, "echo").field("authorization", "Bearer key-of-eve");
    assert_eq!(stage.ask(&stranger).await.status, 401);
    stage.gateway.signal("TERM");
    assert_eq!(stage.gateway.ended().await, Some(0));
    let spans = collector.spans();
    assert!(spans.iter().any(|span| text(&span.attributes, "toolgate.caller") == "ann"));
    assert!(spans.iter().any(|span| text(&span.attributes, "error.type") == "unauthenticated"));
    assert!(!collector.metrics().is_empty());
    for request in collector.requests() {
        assert_eq!(request.field("x-api-key"), Some("key-of-the-collector"));
        assert_eq!(request.field("content-type"), Some("application/x-protobuf"));
        let said = String::from_utf8_lossy(&request.body);
        let start = &session[..24];
        for secret in ["key-of", "canary", "one-session", start, &digest] {
            assert!(!said.contains(secret), "{secret} in {said}");
        }
    }
    assert!(!stage.gateway.diagnostics().contains("key-of"));
}

#[tokio::test]
async fn a_collector_that_says_no_loses_spans_and_nothing_else() {
    let status = Arc::new(AtomicU16::new(400));
    let says = Arc::clone(&status);
    let collector =
        Collector::scripted(move |_| vec![plain(says.load(Ordering::Relaxed), "", b"garbage")])
            .await;
    let stage = stage(&collector, "sample: 1, metrics_interval: 100ms", "").await;
    for number in 0..3 {
        assert_eq!(stage.ask(&Message::call(number, "echo")).await.status, 200);
        stage
            .gateway
            .metrics_with(&format!(r#"lost_total{{signal="spans"}} {}"#, 2 * number + 2))
            .await;
    }
    let told = |what: &str| stage.gateway.diagnostics().matches(what).count();
    assert_eq!(told("spans for the collector are lost"), 1);
    collector.wait(|| told("metrics for the collector are lost") == 1, "warning").await;
    status.store(200, Ordering::Relaxed);
    assert_eq!(stage.ask(&Message::call(9, "echo")).await.status, 200);
    collector.wait(|| told("the collector takes all spans again") == 1, "all clear").await;
    collector.wait(|| told("the collector takes all metrics again") == 1, "all clear").await;
    stage.gateway.metrics_with(r#"lost_total{signal="spans"} 6"#).await;
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_holds_nobody_back() {
    let hanging = Collector::scripted(|_| vec![Step::Wait(Arc::new(Semaphore::new(0)))]).await;
    let away = crate::support::gateway::free_address();
    let away = format!("telemetry: {{ otlp: {{ endpoint: 'http://{away}', sample: 1 }} }}\n");
    for section in [hanging.section("sample: 1, timeout: 1h, metrics_interval: 100ms"), away] {
        let upstream = Upstream::mcp("one").await;
        let gateway = Gateway::start(&format!("{}{section}", upstream.sections())).await;
        let mut stage = Stage { gateway, upstream };
        let mut client = stage.connect().await;
        for number in 0..300 {
            assert!(client.send(&Message::call(number, "echo").bytes()).await);
            assert_eq!(client.answer().await.status, 200);
        }
        let began = Instant::now();
        stage.gateway.signal("TERM");
        assert_eq!(stage.gateway.ended().await, Some(0));
        assert!(began.elapsed() < Duration::from_secs(15), "the end waited for the collector");
    }
}

#[tokio::test]
async fn a_reload_that_names_another_collector_is_refused() {
    let collector = Collector::start().await;
    let stage = stage(&collector, "sample: 1", "").await;
    let text = stage.gateway.config();
    std::fs::write(stage.gateway.folder().join("toolgate.yaml"), text.replace("/in/", "/out/"))
        .expect("written");
    stage.gateway.signal("HUP");
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="refused"} 1"#).await;
    assert!(stage.gateway.diagnostics().contains("telemetry.otlp"));
}
