//! The peek against `serde_json` into typed, borrowed structs, on the same bodies in the same run.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::fmt::Write;
use std::hint::black_box;
use toolgate::jsonrpc::peek;

/// What the peek reads, read with `serde_json`; borrowed strings are its fastest way.
#[derive(Deserialize)]
#[expect(dead_code, reason = "reading the fields is what is measured")]
struct Typed<'a> {
    jsonrpc: &'a str,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    params: Option<TypedParams<'a>>,
    result: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "reading the fields is what is measured")]
struct TypedParams<'a> {
    name: Option<&'a str>,
    uri: Option<&'a str>,
    task_id: Option<&'a str>,
    r#ref: Option<TypedReference<'a>>,
    protocol_version: Option<&'a str>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow)]
    meta: Option<TypedMeta<'a>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "reading the fields is what is measured")]
struct TypedReference<'a> {
    r#type: Option<&'a str>,
    name: Option<&'a str>,
    uri: Option<&'a str>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "reading the fields is what is measured")]
struct TypedMeta<'a> {
    #[serde(rename = "progressToken", borrow)]
    progress_token: Option<&'a RawValue>,
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    protocol_version: Option<&'a str>,
    #[serde(rename = "io.modelcontextprotocol/clientCapabilities", borrow)]
    client_capabilities: Option<&'a RawValue>,
    #[serde(rename = "io.modelcontextprotocol/clientInfo", borrow)]
    client_info: Option<&'a RawValue>,
    #[serde(rename = "io.modelcontextprotocol/logLevel", borrow)]
    log_level: Option<&'a RawValue>,
}

fn call(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{{"name":"search_issues","arguments":{arguments},"_meta":{{"progressToken":"p-17","io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
    )
}

/// One long string with an escape about every 27 bytes, as source code in an argument has.
fn text(bytes: usize) -> String {
    let line = r"a line of text, as others.\n";
    call(&format!(r#"{{"content":"{}"}}"#, line.repeat(bytes / line.len())))
}

/// Many small objects, as rows of a table have.
fn rows(bytes: usize) -> String {
    let mut rows = String::from("{\"rows\":[");
    let mut number = 0;
    while rows.len() < bytes {
        let comma = if number == 0 { "" } else { "," };
        _ = write!(
            rows,
            r#"{comma}{{"id":{number},"name":"row {number}","score":0.25,"ok":true,"tags":["a","b"]}}"#
        );
        number += 1;
    }
    rows.push_str("]}");
    call(&rows)
}

fn benchmark(criterion: &mut Criterion) {
    let bodies = [
        ("200B", call(r#"{"query":"peek"}"#)),
        ("2KB-text", text(2 << 10)),
        ("2KB-struct", rows(2 << 10)),
        ("64KB-text", text(64 << 10)),
        ("64KB-struct", rows(64 << 10)),
        ("1MB-text", text(1 << 20)),
        ("1MB-struct", rows(1 << 20)),
    ];
    let mut group = criterion.benchmark_group("peek");
    for (name, body) in &bodies {
        assert!(peek(body.as_bytes()).is_ok() && serde_json::from_str::<Typed<'_>>(body).is_ok());
        group.throughput(Throughput::Bytes(body.len() as u64));
        let bytes = body.as_bytes();
        group.bench_with_input(BenchmarkId::new("ours", name), bytes, |bencher, bytes| {
            bencher.iter(|| _ = black_box(&peek(black_box(bytes))));
        });
        group.bench_with_input(BenchmarkId::new("serde_json", name), bytes, |bencher, bytes| {
            bencher.iter(|| _ = black_box(&serde_json::from_slice::<Typed<'_>>(black_box(bytes))));
        });
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
