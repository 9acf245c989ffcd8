//! Nothing is allocated for ordinary bodies; a binary of its own, because the counter is a global allocator.

use allocation_counter::measure;
use toolgate::jsonrpc::peek;

fn allocations(body: &str) -> u64 {
    let mut is_accepted = false;
    let count = measure(|| is_accepted = peek(body.as_bytes()).is_ok()).count_total;
    assert!(is_accepted, "{body}");
    count
}

#[test]
fn ordinary_bodies_allocate_nothing() {
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":"r-1","method":"tools/call","params":{{"name":"write","arguments":{{"text":"{}","rows":[{}0]}}}}}}"#,
        r"a line\n with \u00e9 and \/ \ud83e\udd80".repeat(20_000),
        r#"{"a":[1.5,null,true],"b":{}},"#.repeat(20_000),
    );
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi"}}}"#,
        r#"{"jsonrpc":"2.0","id":"a","method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\u0031"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"roots":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol\/protocolVersion":"2026-07-28"}}}"#,
        long.as_str(),
    ] {
        assert_eq!(allocations(body), 0, "{body:.120}");
    }
}

#[test]
fn only_a_read_string_with_an_escape_allocates() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"echo"}}"#;
    assert!(allocations(body) > 0);
}
