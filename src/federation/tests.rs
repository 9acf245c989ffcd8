//! Tests of several servers as one: whose names are, what is listed, what is said of it.

mod lists;

use super::naming::Rules;
use super::{Federation, Found};
use crate::catalog::{Catalog, Kind, Offer};
use crate::config::{self, Settings, Target};
use crate::mcp::Era;
use crate::upstream::Fleet;
use serde_json::{Value, json};
use std::time::SystemTime;

fn settings(members: &str, more: &str) -> Settings {
    let servers =
        ["a", "b", "c"].map(|name| format!("{name}: {{ endpoints: [http://10.0.0.1/{name}] }}"));
    let yaml = format!(
        "listen: 127.0.0.1:1\nservers: {{ {} }}\nroutes: [{{ path: /mcp, servers: {members}{more} }}]\n",
        servers.join(", ")
    );
    config::parse(&yaml, "test", &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

pub(super) fn rules(members: &str) -> Rules {
    let settings = settings(members, "");
    let Target::Servers(servers) = &settings.routes[0].target else { panic!("one server") };
    Rules::new(&servers.members)
}

/// Several servers, and the catalogue that says what they offer.
pub(super) struct Stage {
    pub(super) catalog: Catalog,
    pub(super) federation: Federation,
}

pub(super) fn stage(members: &str, more: &str) -> Stage {
    let settings = settings(members, more);
    let fleet = Fleet::new();
    let pools = fleet.prepare(&settings.servers, 1);
    fleet.install(&pools, 1);
    let catalog = Catalog::new();
    let federation = Federation::new(&settings.routes[0], &pools, &catalog);
    Stage { catalog, federation }
}

impl Stage {
    /// The server offers this: the value of one list for each kind.
    pub(super) fn offers(&self, server: &str, lists: &[(Kind, Value)]) {
        let greeting = json!({ "capabilities": {} }).to_string();
        self.says(server, Era::Legacy, &greeting, lists);
    }

    pub(super) fn says(&self, server: &str, era: Era, greeting: &str, lists: &[(Kind, Value)]) {
        let results: Vec<(Kind, String)> =
            lists.iter().map(|(kind, list)| (*kind, list.to_string())).collect();
        let results: Vec<(Kind, &[u8])> =
            results.iter().map(|(kind, list)| (*kind, list.as_bytes())).collect();
        let greeting = greeting.as_bytes().to_vec().into();
        let offer = Offer::of_results(era, greeting, &results, SystemTime::now()).expect("lists");
        assert!(self.catalog.put(server, offer), "there is room");
    }

    pub(super) fn has_tools(&self, server: &str, names: &[&str]) {
        let tools: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        self.offers(server, &[(Kind::Tools, json!({ "tools": tools }))]);
    }

    /// The member's server and own name, or why there is none.
    pub(super) fn found(&self, kind: Kind, shown: &str) -> String {
        match self.federation.find(kind, shown) {
            Found::At { member, own } => {
                format!("{}/{own}", self.federation.members()[member].name)
            }
            other => format!("{other:?}"),
        }
    }

    pub(super) fn reports(&self) -> Vec<String> {
        self.federation.reports().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_cold_catalogue_leaves_to_the_name_what_the_name_tells() {
    let stage = stage(
        "[{ name: a, prefix: a_ }, { name: b, match: { tools: ['fs_*'] } }, { name: c }]",
        "",
    );
    for (shown, expected) in [
        ("a_read", "a/read"),
        ("fs_index", "b/fs_index"),
        ("other", "c/other"),
        ("a_x_0123abcd", "NotYet"),
        ("a.b", "Unknown"),
        ("", "Unknown"),
        ("x\u{0}", "Unknown"),
        (&"x".repeat(65), "Unknown"),
    ] {
        assert_eq!(stage.found(Kind::Tools, shown), expected, "{shown:?}");
    }
    assert_eq!(stage.found(Kind::Resources, "a+file:///x"), "a/file:///x");
    assert_eq!(stage.found(Kind::Resources, "file:///x"), "c/file:///x");
    let federation = &stage.federation;
    assert_eq!(federation.show(0, Kind::Tools, "read"), "a_read");
    assert_eq!(federation.show(0, Kind::Resources, "ui://x"), "ui://a+x");
    assert_eq!(federation.show(1, Kind::Tools, "read"), "read");
    assert_eq!(federation.show(9, Kind::Tools, "read"), "read");
}

#[test]
fn without_rules_the_lists_tell_and_nothing_is_decided_by_chance() {
    let stage = stage("[{ name: a }, { name: b }]", "");
    assert_eq!(stage.found(Kind::Tools, "one"), "NotYet");
    stage.has_tools("a", &["one", "both"]);
    assert_eq!(stage.found(Kind::Tools, "one"), "a/one");
    assert_eq!(stage.found(Kind::Tools, "two"), "NotYet");
    stage.has_tools("b", &["two", "both"]);
    assert_eq!(stage.found(Kind::Tools, "two"), "b/two");
    assert_eq!(stage.found(Kind::Tools, "both"), "Ambiguous");
    assert_eq!(stage.found(Kind::Tools, "three"), "Unknown");
    assert_eq!(
        stage.reports(),
        [
            "tools \"both\" of a: another server offers \"both\" too, so it is not shown",
            "tools \"both\" of b: another server offers \"both\" too, so it is not shown",
        ]
    );
    stage.has_tools("b", &["two"]);
    assert_eq!(stage.found(Kind::Tools, "both"), "a/both", "the table follows the catalogue");
    assert!(stage.reports().is_empty());
}

#[test]
fn a_prefix_on_collision_is_shown_only_then() {
    let stage = stage(
        "[{ name: a, prefix: a_, prefix_on: collision }, { name: b, prefix: b_, prefix_on: collision }, { name: c }]",
        "",
    );
    stage.has_tools("a", &["one", "both"]);
    stage.has_tools("b", &["both", "a_both", "of_c"]);
    stage.has_tools("c", &["of_c", "x"]);
    let rows = [
        ("one", "a/one"),
        ("both", "Ambiguous"),
        ("b_both", "b/both"),
        // What a shows because of b meets another one of b's.
        ("a_both", "Ambiguous"),
        ("of_c", "c/of_c"),
        ("b_of_c", "b/of_c"),
        ("a_one", "Unknown"),
    ];
    for (shown, expected) in rows {
        assert_eq!(stage.found(Kind::Tools, shown), expected, "{shown}");
    }
    assert_eq!(stage.federation.show(1, Kind::Tools, "both"), "b_both");
    assert_eq!(stage.federation.show(0, Kind::Tools, "one"), "one");
    assert_eq!(stage.federation.show(0, Kind::Tools, "never_listed"), "never_listed");
}

#[test]
fn what_a_rule_gives_to_one_server_no_other_shows() {
    let stage = stage(
        "[{ name: a, prefix: a_ }, { name: b, tools: { deny: ['secret*'], rename: { x: open } } },
          { name: c, match: { tools: ['fs_*'] } }]",
        "",
    );
    stage.has_tools("a", &["one"]);
    stage.has_tools("b", &["a_one", "x", "open", "secret", "fs_a", "y"]);
    stage.has_tools("c", &["fs_a", "y"]);
    let rows = [
        ("a_one", "a/one"),
        ("open", "b/x"),
        ("x", "Unknown"),
        ("secret", "Unknown"),
        ("fs_a", "c/fs_a"),
        ("y", "b/y"),
    ];
    for (shown, expected) in rows {
        assert_eq!(stage.found(Kind::Tools, shown), expected, "{shown}");
    }
    assert_eq!(
        stage.reports(),
        [
            "tools \"a_one\" of b: the name belongs to a, so it is not shown",
            "tools \"open\" of b: the name belongs to b, so it is not shown",
        ]
    );
}

#[test]
fn odd_names_are_shown_under_others_and_found_again() {
    let stage = stage("[{ name: a, prefix: a_ }, { name: b }]", "");
    let long = "x".repeat(80);
    stage.has_tools("a", &["dots.and/more", "line\nbreak", &long, "fine"]);
    stage.has_tools("b", &["dots.and/more"]);
    for (member, own) in
        [(0, "dots.and/more"), (0, "line\nbreak"), (0, &*long), (1, "dots.and/more")]
    {
        let shown = stage.federation.show(member, Kind::Tools, own).into_owned();
        assert!(shown.len() <= 64 && !shown.contains(['.', '/', '\n']), "{shown}");
        let name = &stage.federation.members()[member].name;
        assert_eq!(stage.found(Kind::Tools, &shown), format!("{name}/{own}"));
    }
    assert_eq!(stage.reports().len(), 4);
    assert!(stage.reports()[1].starts_with("tools \"line\\nbreak\" of a: clients would not take"));
}

#[test]
fn resources_are_found_by_list_by_template_or_by_who_is_left() {
    let stage = stage("[{ name: a, uri_prefix: a+ }, { name: b }, { name: c }]", "");
    let resources = |uris: &[&str]| {
        let list: Vec<Value> = uris.iter().map(|uri| json!({ "uri": uri, "name": uri })).collect();
        (Kind::Resources, json!({ "resources": list }))
    };
    let templates = |uris: &[&str]| {
        let list: Vec<Value> =
            uris.iter().map(|uri| json!({ "uriTemplate": uri, "name": uri })).collect();
        (Kind::Templates, json!({ "resourceTemplates": list }))
    };
    stage.offers("a", &[resources(&["file:///x", "ui://page"])]);
    stage.offers(
        "b",
        &[resources(&["file:///x", "file:///both", "bad\nuri"]), templates(&["repo://{+path}"])],
    );
    stage.offers("c", &[resources(&["file:///both"]), templates(&["db://{t}", "repo://c/{x}"])]);
    let rows = [
        ("a+file:///x", "a/file:///x"),
        ("ui://a+page", "a/ui://page"),
        ("a+file:///unlisted", "a/file:///unlisted"),
        ("file:///x", "b/file:///x"),
        ("file:///both", "Ambiguous"),
        ("repo://b/y", "b/repo://b/y"),
        ("repo://c/y", "Ambiguous"),
        ("db://t1", "c/db://t1"),
        ("db://t/1", "Unknown"),
        ("bad\nuri", "Unknown"),
    ];
    for (shown, expected) in rows {
        assert_eq!(stage.found(Kind::Resources, shown), expected, "{shown}");
    }
    assert_eq!(stage.found(Kind::Templates, "db://{t}"), "c/db://{t}");
    assert_eq!(stage.found(Kind::Templates, "a+x://{t}"), "a/x://{t}");
    assert!(
        stage.reports().contains(
            &"resources \"bad\\nuri\" of b: this is no URI, so it is not shown".to_owned()
        )
    );
}

#[test]
fn what_is_unfit_is_left_out_and_told() {
    let stage = stage("[{ name: a }, { name: b }]", "");
    let nested: Value = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let tools = json!({ "tools": [
        { "name": "deep", "inputSchema": nested },
        { "name": "large", "description": "x".repeat(2 * 1024 * 1024) },
        { "name": "twice" }, { "name": "twice", "title": "again" }, { "name": "good" },
    ] });
    stage.offers("a", &[(Kind::Tools, tools)]);
    stage.has_tools("b", &["other"]);
    for (shown, expected) in
        [("deep", "Unknown"), ("large", "Unknown"), ("twice", "a/twice"), ("good", "a/good")]
    {
        assert_eq!(stage.found(Kind::Tools, shown), expected, "{shown}");
    }
    assert_eq!(
        stage.reports(),
        [
            "tools \"deep\" of a: the definition nests too deep to be shown",
            "tools \"large\" of a: the definition is too large to be shown",
        ]
    );
}

#[test]
fn thousands_of_definitions_are_bounded() {
    let stage = stage("[{ name: a, prefix: a_ }, { name: b }, { name: c }]", "");
    let many: Vec<String> = (0..10_000).map(|number| format!("tool.{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    stage.has_tools("a", &many);
    stage.has_tools("b", &many);
    stage.has_tools("c", &["one"]);
    let reports = stage.federation.reports();
    assert!(reports.len() <= 1002, "{}", reports.len());
    assert_eq!(
        stage.found(Kind::Tools, &stage.federation.show(1, Kind::Tools, "tool.7")),
        "b/tool.7"
    );
    assert_eq!(stage.found(Kind::Tools, "one"), "Unknown", "there was no room, and that is told");
}
