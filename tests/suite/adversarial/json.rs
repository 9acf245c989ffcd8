//! Bodies that two parsers read differently, or that are no JSON-RPC message at all.

use crate::support::Stage;
use crate::support::message::Message;
use crate::support::upstream::{Upstream, plain};
use serde_json::{Value, json};

const PARSE: i64 = -32700;
const INVALID: i64 = -32600;
const PARAMS: i64 = -32602;

/// Sends `body` in both eras; the answer must be 400 with `code` and `id`.
async fn check(stage: &Stage, body: impl Into<Vec<u8>>, code: i64, id: Value) {
    let legacy = Message::post(body);
    let modern = legacy
        .clone()
        .field("mcp-protocol-version", "2026-07-28")
        .field("mcp-method", "tools/call")
        .field("mcp-name", "safe");
    for message in [legacy, modern] {
        let shown =
            String::from_utf8_lossy(&message.body[..message.body.len().min(120)]).into_owned();
        let answer = stage.ask(&message).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{shown}: {}", answer.text());
        assert_eq!(answer.json()["id"], id, "{shown}: {}", answer.text());
        assert_eq!(answer.field("content-type"), Some("application/json"));
        stage.is_unharmed(&shown).await;
    }
}

fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#)
}

#[tokio::test]
async fn keys_that_parsers_disagree_about() {
    let stage = Stage::mcp().await;
    let params = [
        r#"{"name":"safe","name":"evil"}"#,
        r#"{"name":"safe","na\u006de":"evil"}"#,
        r#"{"name":"safe","Name":"evil"}"#,
        r#"{"name":"safe","NAME":"evil"}"#,
        r#"{"name":"safe","name\u0000":"evil"}"#,
        r#"{"name":"safe","argument\u017f":{}}"#,
        r#"{"name":"safe","tas\u212aId":"x"}"#,
        r#"{"name":"safe","arguments":{},"arguments":{}}"#,
        r#"{"name":"safe","_meta":{},"_meta":{}}"#,
        r#"{"name":"safe","_meta":{"progressToken":1,"progressToken":2}}"#,
        r#"{"name":"safe","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","IO.modelcontextprotocol/protocolVersion":"x"}}"#,
        r#"{"ref":{"type":"ref/prompt","name":"a","name":"b"}}"#,
    ];
    for params in params {
        check(&stage, call(params), INVALID, json!(7)).await;
    }
    let roots = [
        (
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","method":"tools/call","params":{"name":"evil"}}"#,
            json!(7),
        ),
        (
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"safe"},"params":{"name":"evil"}}"#,
            json!(7),
        ),
        (
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"safe"},"Params":{"name":"evil"}}"#,
            json!(7),
        ),
        (
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\",\"params\":{\"name\":\"safe\"},\"param\u{17f}\":{\"name\":\"evil\"}}",
            json!(7),
        ),
        (
            r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"tools/call","params":{"name":"safe"}}"#,
            Value::Null,
        ),
        (
            r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"safe"}}"#,
            json!(7),
        ),
    ];
    for (body, id) in roots {
        check(&stage, body, INVALID, id).await;
    }
}

#[tokio::test]
async fn what_is_no_json() {
    let stage = Stage::mcp().await;
    let arguments = |text: &str| call(&format!(r#"{{"name":"safe","arguments":{{"a":{text}}}}}"#));
    for text in [
        "NaN",
        "Infinity",
        "01",
        "1.",
        "-",
        "+1",
        ".5",
        "0x1",
        "1e",
        "tru",
        "'a'",
        "\"a\nb\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "[1,]",
        "{\"b\":1,}",
        "/**/1",
        "undefined",
        "",
    ] {
        check(&stage, arguments(text), PARSE, json!(7)).await;
    }
    let good = call(r#"{"name":"safe"}"#);
    check(&stage, format!("\u{feff}{good}"), PARSE, Value::Null).await;
    check(&stage, format!("{good}{good}"), PARSE, json!(7)).await;
    check(&stage, format!("{good}x"), PARSE, json!(7)).await;
    check(&stage, format!("{good}\0"), PARSE, json!(7)).await;
    check(&stage, "", PARSE, Value::Null).await;
    check(&stage, " \r\n\t", PARSE, Value::Null).await;
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(&stage, utf16, PARSE, Value::Null).await;
    let mut invalid = arguments("\"@\"").into_bytes();
    for byte in &mut invalid {
        if *byte == b'@' {
            *byte = 0xff;
        }
    }
    check(&stage, invalid, PARSE, json!(7)).await;
    // Every way to lose the end of a body whose length says that it is whole.
    for end in (1..good.len()).step_by(7) {
        let id = if end > 23 { json!(7) } else { Value::Null };
        check(&stage, &good[..end], PARSE, id).await;
    }
}

#[tokio::test]
async fn what_is_json_and_no_message() {
    let stage = Stage::mcp().await;
    let good = call(r#"{"name":"safe"}"#);
    let rows = [
        ("null", Value::Null),
        ("42", Value::Null),
        ("\"text\"", Value::Null),
        ("true", Value::Null),
        ("{}", Value::Null),
        ("[]", Value::Null),
        (r#"["tools/call",1,{"name":"evil"}]"#, Value::Null),
        (&format!("[{good}]"), Value::Null),
        (r#"{"id":7,"method":"tools/list"}"#, json!(7)),
        (r#"{"jsonrpc":"1.0","id":7,"method":"tools/list"}"#, json!(7)),
        (r#"{"jsonrpc":2.0,"id":7,"method":"tools/list"}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":{},"method":"tools/list"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"tools/list"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":true,"method":"tools/list"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":7,"method":1}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":7}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":[1]}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":"x"}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","result":{}}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","result":{}}"#, Value::Null),
    ];
    for (body, id) in rows {
        check(&stage, body, INVALID, id).await;
    }
    check(&stage, call(r#"{"name":"\ud800"}"#), INVALID, json!(7)).await;
    check(&stage, call(r#"{"name":1}"#), PARAMS, json!(7)).await;
    check(&stage, call(r#"{"name":["safe"]}"#), PARAMS, json!(7)).await;
    check(&stage, call(r#"{"name":"safe","_meta":[]}"#), PARAMS, json!(7)).await;
}

#[tokio::test]
async fn what_is_nested_without_end() {
    let stage = Stage::mcp().await;
    for depth in [200, 100_000, 1_000_000] {
        let brackets = "[".repeat(depth);
        check(&stage, brackets.clone(), INVALID, Value::Null).await;
        let closed = format!("{brackets}{}", "]".repeat(depth));
        let arguments = call(&format!(r#"{{"name":"safe","arguments":{{"a":{closed}}}}}"#));
        check(&stage, arguments, INVALID, json!(7)).await;
        let objects = call(&r#"{"a":"#.repeat(depth));
        check(&stage, objects, INVALID, json!(7)).await;
    }
}

#[tokio::test]
async fn what_is_strange_and_legal_passes_untouched() {
    let stage = Stage::before(Upstream::start(|_| vec![plain(200, "", b"")]).await).await;
    let bodies = [
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"a":"\ud800","b":1e999,"name":1,"name":2}}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":"\u00fc\/","method":"tools\/call","params":{"name":"ec\u0068o"}}"#.to_owned(),
        " {\n\t\"method\" : \"tools/call\" , \"params\":{\"name\":\"echo\"},\"id\":-9007199254740993,\r\"jsonrpc\":\"2.0\"} ".to_owned(),
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":{}{}}}}}}}"#, "[".repeat(100), "]".repeat(100)),
    ];
    for body in bodies {
        let answer = stage.ask(&Message::post(body.clone())).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(stage.upstream.take()[0].body, body.as_bytes());
    }
}
