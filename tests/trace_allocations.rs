//! A trace that is not kept allocates nothing; a binary of its own, because the counter is a global allocator.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use toolgate::config::Export;
use toolgate::telemetry::{Claimed, Metrics, Otlp, SpanContext};

#[test]
fn what_is_not_sampled_allocates_nothing() {
    let settings = Export {
        endpoint: "http://127.0.0.1:1".to_owned(),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        ca: None,
        sample: 0.0,
        metrics_interval: Duration::ZERO,
    };
    let otlp = Otlp::start(&settings, &Arc::new(Metrics::new(1, 1))).expect("a thread");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let meta =
        format!(r#"{{"progressToken":1,"traceparent":"{parent}","other":{{"a":["b\\n"]}}}}"#);
    // Each thread makes its random numbers from a seed of its own.
    black_box(otlp.root());
    let mut kept = false;
    let count = measure(|| {
        let root = otlp.root();
        let of_head = SpanContext::parse(black_box(parent)).map(Otlp::child);
        let of_message = Claimed::read(black_box(&meta)).map(|it| Otlp::child(it.parent));
        for span in [Some(root), of_head, of_message] {
            kept |= span.is_none_or(|span| span.is_sampled);
            black_box(span.map(|span| span.traceparent()));
        }
    });
    assert_eq!((count.count_total, kept), (0, false));
}
