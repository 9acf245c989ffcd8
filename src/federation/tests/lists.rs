//! What several servers list and say of themselves as one.

use super::{Stage, stage};
use crate::catalog::{Audience, Kind, Offer};
use crate::federation::{BadCursor, ListAsk, SealCursors};
use crate::mcp::{Annotations, Era, Revision};
use serde_json::{Value, json};
use std::time::SystemTime;

/// Cursors as they are: what is tested is what they say.
struct Open;

impl SealCursors for Open {
    fn seal(&self, content: &[u8]) -> Option<String> {
        Some(content.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn open(&self, cursor: &str) -> Option<Vec<u8>> {
        let pairs = cursor.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        pairs.map(byte).collect()
    }
}

fn ask(kind: Kind, era: Era, cursor: Option<&str>) -> ListAsk<'_> {
    ListAsk {
        kind,
        era,
        cursor,
        audience: Audience::Everyone,
        lacks: &|_, _, _| {},
        cursors: &Open,
        now: SystemTime::now(),
        now_ms: 2,
    }
}

/// Shows what is not called `hidden`.
fn not_hidden(_: usize, _: Kind, own: &str, _: &Annotations) -> bool {
    own != "hidden"
}

fn page(stage: &Stage, kind: Kind, era: Era, cursor: Option<&str>) -> Value {
    let bytes = stage.federation.list(&ask(kind, era, cursor), &not_hidden).expect("a page");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn names(page: &Value, list: &str, key: &str) -> Vec<String> {
    let all = page[list].as_array().expect("a list").iter();
    all.map(|of| of[key].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn lists_show_all_servers_in_their_order_and_say_what_is_missing() {
    let stage = stage("[{ name: b, prefix: b_ }, { name: a }, { name: c }]", "");
    stage.has_tools("a", &["one", "hidden"]);
    stage.has_tools("b", &["two", "dot.ted"]);
    let legacy = page(&stage, Kind::Tools, Era::Legacy, None);
    let shown = names(&legacy, "tools", "name");
    assert_eq!(shown.len(), 3);
    assert_eq!((&*shown[0], &*shown[2]), ("b_two", "one"));
    assert_eq!(
        legacy["_meta"],
        json!({ "io.toolgate/servers": [{ "name": "c", "list": "left_out", "because": "not_listed" }] })
    );
    assert!(legacy.get("resultType").is_none() && legacy.get("nextCursor").is_none());

    // All of them were spoken to as legacy servers.
    let modern = page(&stage, Kind::Tools, Era::Modern, None);
    assert_eq!(names(&modern, "tools", "name").len(), 0);
    let odd = modern["_meta"]["io.toolgate/servers"].as_array().expect("servers");
    assert_eq!(odd[0], json!({ "name": "b", "list": "left_out", "because": "era" }));
    assert_eq!((&modern["resultType"], &modern["ttlMs"]), (&json!("complete"), &json!(0)));
    for (kind, list) in [(Kind::Prompts, "prompts"), (Kind::Templates, "resourceTemplates")] {
        assert_eq!(page(&stage, kind, Era::Legacy, None)[list], json!([]), "nothing is a list too");
    }
}

#[test]
fn a_definition_keeps_its_bytes() {
    let stage = stage("[{ name: a, prefix: a_ }]", "");
    let result = br#"{"tools":[ {"x" : 1.50,"name": "t" } ]}"#;
    let offer = Offer::of_results(
        Era::Legacy,
        br#"{"capabilities":{}}"#.to_vec().into(),
        &[(Kind::Tools, result)],
        SystemTime::now(),
    );
    assert!(stage.catalog.put("a", offer.expect("a list")));
    let listed = stage.federation.list(&ask(Kind::Tools, Era::Legacy, None), &not_hidden);
    assert_eq!(&listed.expect("a page")[..], br#"{"tools":[{"x" : 1.50,"name": "a_t" }]}"#);
}

#[test]
fn pages_go_on_where_they_ended_though_the_lists_change() {
    let stage = stage("[{ name: a, prefix: a_ }, { name: b }]", ", list_page_max: 2");
    stage.has_tools("a", &["1", "hidden", "2", "3"]);
    stage.has_tools("b", &["4", "hidden"]);
    let first = page(&stage, Kind::Tools, Era::Legacy, None);
    assert_eq!(names(&first, "tools", "name"), ["a_1", "a_2"]);
    let cursor = first["nextCursor"].as_str().expect("a cursor");
    let second = page(&stage, Kind::Tools, Era::Legacy, Some(cursor));
    assert_eq!(names(&second, "tools", "name"), ["a_3", "4"]);
    assert!(second.get("nextCursor").is_none(), "what is hidden makes no page");

    stage.has_tools("a", &["0", "1", "2", "3"]);
    let second = page(&stage, Kind::Tools, Era::Legacy, Some(cursor));
    assert_eq!(names(&second, "tools", "name"), ["a_3", "4"], "after the same one");
    stage.has_tools("a", &["1"]);
    let second = page(&stage, Kind::Tools, Era::Legacy, Some(cursor));
    assert_eq!(names(&second, "tools", "name"), ["4"], "after where it stood");

    for bad in ["", "00", "zz", &cursor[2..], &format!("{cursor}00")] {
        let bad = stage.federation.list(&ask(Kind::Tools, Era::Legacy, Some(bad)), &not_hidden);
        assert_eq!(bad, Err(BadCursor));
    }
    let of_other = ask(Kind::Prompts, Era::Legacy, Some(cursor));
    assert_eq!(stage.federation.list(&of_other, &not_hidden), Err(BadCursor));
}

#[test]
fn a_page_is_no_larger_than_a_list_may_be() {
    let stage = stage("[{ name: a }]", ", list_bytes_max: 1KiB");
    let text = "x".repeat(600);
    let tools: Vec<Value> =
        (0..4).map(|number| json!({ "name": format!("t{number}"), "title": text })).collect();
    stage.offers("a", &[(Kind::Tools, json!({ "tools": tools }))]);
    let (mut cursor, mut pages) = (None, 0);
    loop {
        let page = page(&stage, Kind::Tools, Era::Legacy, cursor.as_deref());
        assert_eq!(page["tools"].as_array().map(Vec::len), Some(1));
        pages += 1;
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, 4);
}

#[test]
fn what_a_list_says_of_caching_is_what_the_most_careful_server_says() {
    let stage = stage("[{ name: a }, { name: b }]", "");
    let modern = r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#;
    let list = |scope: &str, ttl_ms: u64| {
        let result = json!({ "tools": [], "cacheScope": scope, "ttlMs": ttl_ms });
        [(Kind::Tools, result)]
    };
    stage.says("a", Era::Modern, modern, &list("public", 3_600_000));
    stage.says("b", Era::Modern, modern, &list("public", 60_000));
    let public = page(&stage, Kind::Tools, Era::Modern, None);
    let ttl_ms = public["ttlMs"].as_u64().expect("a number");
    assert!((30_000..=60_000).contains(&ttl_ms), "what is left of a minute: {ttl_ms}");
    assert_eq!(public["cacheScope"], "public");
    assert!(public["_meta"].get("io.toolgate/servers").is_none(), "{public}");
    let filtered = ListAsk { audience: Audience::Caller, ..ask(Kind::Tools, Era::Modern, None) };
    let filtered = stage.federation.list(&filtered, &not_hidden).expect("a page");
    assert!(filtered.windows(22).any(|part| part == br#""cacheScope":"private""#));
    stage.says("b", Era::Modern, modern, &list("private", 60_000));
    assert_eq!(page(&stage, Kind::Tools, Era::Modern, None)["cacheScope"], "private");
    assert!(stage.federation.is_private());
    // Whoever speaks only the other era hears why there is nothing.
    assert!(
        !stage.federation.speaks(Era::Legacy) && !stage.federation.member_speaks(0, Era::Legacy)
    );
}

#[test]
fn a_server_that_is_down_keeps_its_place_or_is_left_out_as_configured() {
    for (when_down, list, shown) in [("keep", "kept", 2), ("leave_out", "left_out", 1)] {
        let stage = stage("[{ name: a }, { name: b }]", &format!(", when_down: {when_down}"));
        stage.has_tools("a", &["one"]);
        stage.has_tools("b", &["two"]);
        let member = &stage.federation.members()[1];
        member.pool.refused(&member.pool.members().endpoints()[0], 1);
        assert!(member.is_down(2));
        let page = page(&stage, Kind::Tools, Era::Legacy, None);
        assert_eq!(page["tools"].as_array().map(Vec::len), Some(shown));
        let expected = json!([{ "name": "b", "list": list, "because": "down" }]);
        assert_eq!(page["_meta"]["io.toolgate/servers"], expected);
    }
}

#[test]
fn greetings_say_what_any_server_can() {
    let stage = stage("[{ name: a }, { name: b }]", "");
    let greeting = |era| -> Value {
        serde_json::from_slice(&stage.federation.greeting(era, Some(Revision::V2025_03_26)))
            .expect("JSON")
    };
    let cold = greeting(Era::Legacy);
    assert_eq!(cold["capabilities"], json!({ "tools": {}, "prompts": {}, "resources": {} }));
    let of_a = json!({ "protocolVersion": "2025-11-25", "instructions": "Ask \"a\".",
        "capabilities": { "tools": { "listChanged": false }, "logging": {}, "experimental": { "x": {} } } });
    let of_b = json!({ "protocolVersion": "2025-11-25", "instructions": "And b.", "serverInfo": { "name": "b" },
        "capabilities": { "tools": { "listChanged": true }, "resources": { "subscribe": true },
            "extensions": { "io.modelcontextprotocol/ui": {}, "com.example/own": {} } } });
    stage.says("a", Era::Legacy, &of_a.to_string(), &[]);
    stage.says("b", Era::Legacy, &of_b.to_string(), &[]);
    let both = greeting(Era::Legacy);
    assert_eq!(both["protocolVersion"], "2025-03-26");
    assert_eq!(both["serverInfo"]["name"], "toolgate");
    assert_eq!(both["instructions"], "# a\nAsk \"a\".\n\n# b\nAnd b.");
    assert_eq!(
        both["capabilities"],
        json!({ "tools": { "listChanged": true }, "logging": {}, "resources": { "subscribe": true },
            "extensions": { "io.modelcontextprotocol/ui": {} } })
    );
    assert!(!stage.federation.speaks(Era::Modern));
    assert!(!stage.federation.versions().contains(&Revision::V2026_07_28));
    assert_eq!(stage.federation.reports(), [], "clients of the other era are told so at once");

    let of_b = json!({ "supportedVersions": ["2026-07-28", "2025-11-25"], "ttlMs": 5000, "cacheScope": "public",
        "capabilities": { "prompts": {} } });
    stage.says("b", Era::Modern, &of_b.to_string(), &[]);
    let modern = greeting(Era::Modern);
    assert_eq!(
        modern["capabilities"],
        json!({ "prompts": {} }),
        "what clients of this era can use"
    );
    assert_eq!((&modern["ttlMs"], &modern["cacheScope"]), (&json!(5000), &json!("public")));
    assert_eq!(modern["supportedVersions"][0], "2026-07-28");
    assert_eq!(modern["supportedVersions"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        stage.reports(),
        ["a: it speaks only legacy revisions; clients of others do not see it"]
    );
}

#[test]
fn greetings_without_end_say_nothing() {
    let stage = stage("[{ name: a }]", "");
    let nested =
        format!(r#"{{"capabilities":{{"x":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    stage.says("a", Era::Legacy, &nested, &[]);
    let greeting = stage.federation.greeting(Era::Legacy, None);
    let greeting: Value = serde_json::from_slice(&greeting).expect("JSON");
    assert_eq!(greeting["protocolVersion"], "2025-11-25");
    assert!(greeting["capabilities"].get("x").is_none());
}
