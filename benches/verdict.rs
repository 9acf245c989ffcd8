//! What an answer says, read from its bytes as they pass, against one plain pass over the same bytes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use toolgate::mcp::{EventScan, MessageScan, Verdict};

/// Answers of a tool: the ordinary one, one of text as models read it, one of small objects.
fn answers() -> [(&'static str, String); 4] {
    let answer = |content: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":12,"result":{{"content":[{content}],"isError":false}}}}"#)
    };
    let text = |text: &str| answer(&format!(r#"{{"type":"text","text":"{text}"}}"#));
    let line = r#"A line of a file that a tool has read.\n"#;
    let object = r#"{"id":17,"name":"a name","tags":["one","two"],"size":1024,"open":true},"#;
    [
        ("text_250B", text(&line.repeat(4))),
        ("text_16KiB", text(&line.repeat(16 * 1024 / line.len()))),
        ("plain_16KiB", text(&"x".repeat(16 * 1024))),
        ("objects_16KiB", answer(object.repeat(16 * 1024 / object.len()).trim_end_matches(','))),
    ]
}

fn verdict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verdict");
    for (name, answer) in answers() {
        let event = format!("event: message\nid: 7\ndata: {answer}\n\n");
        group.throughput(Throughput::Bytes(answer.len() as u64));
        group.bench_with_input(
            BenchmarkId::new("json", name),
            answer.as_bytes(),
            |bench, answer| {
                bench.iter(|| {
                    let mut scan = MessageScan::default();
                    scan.feed(black_box(answer));
                    assert_eq!(scan.verdict(), Verdict::Ok);
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("event", name),
            event.as_bytes(),
            |bench, event| {
                bench.iter(|| {
                    let mut scan = EventScan::default();
                    scan.feed(black_box(event));
                    assert_eq!(scan.verdict(), Verdict::Ok);
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("pass", name),
            answer.as_bytes(),
            |bench, answer| {
                bench.iter(|| black_box(answer).iter().filter(|byte| **byte == b'"').count());
            },
        );
    }
    group.finish();
}

criterion_group!(benches, verdict);
criterion_main!(benches);
