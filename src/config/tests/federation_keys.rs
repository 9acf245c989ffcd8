//! One row for each key of `routes[].servers`, with a value that is not the default.

use super::keys::Row;
use crate::config::{Member, Override, PrefixOn, Servers, Settings, Target, WhenDown};

fn several(settings: &Settings) -> &Servers {
    let Target::Servers(servers) = &settings.routes[0].target else { panic!("one server") };
    servers
}

fn member(settings: &Settings) -> &Member {
    &several(settings).members[0]
}

fn said(settings: &Settings) -> &Override {
    &member(settings).tools.overrides["t"]
}

/// The server's member with these keys.
macro_rules! member_row {
    ($path:literal, $keys:literal, $holds:expr) => {
        (
            concat!("routes[].servers[]", $path),
            concat!("routes: [{ path: /mcp, servers: [{ name: everything", $keys, " }] }]\n"),
            $holds,
        )
    };
}

/// What is said of its tool `t`.
macro_rules! said_row {
    ($path:literal, $keys:literal, $holds:expr) => {
        (
            concat!("routes[].servers[].tools.override.*", $path),
            concat!(
                "routes: [{ path: /mcp, servers: [{ name: everything, tools: { override: { t: { ",
                $keys,
                " } } } }] }]\n"
            ),
            $holds,
        )
    };
}

pub(super) const FEDERATION: &[Row] = &[
    (
        "routes[].servers",
        "servers: { a: { endpoints: [http://a/] }, b: { endpoints: [http://b/] } }\nroutes: [{ path: /mcp, servers: [{ name: b }, { name: a }] }]\n",
        |s| s.routes[0].servers() == [1, 0],
    ),
    (
        "routes[].when_down",
        "routes: [{ path: /mcp, when_down: leave_out, servers: [{ name: everything }] }]\n",
        |s| several(s).when_down == WhenDown::LeaveOut,
    ),
    (
        "routes[].list_page_max",
        "routes: [{ path: /mcp, list_page_max: 7, servers: [{ name: everything }] }]\n",
        |s| several(s).list_page_max == 7,
    ),
    member_row!(".name", "", |s| member(s).name == "everything" && member(s).claims.is_none()),
    member_row!(".prefix", ", prefix: A_b_", |s| {
        (member(s).prefix.as_str(), member(s).uri_prefix.as_str()) == ("A_b_", "a+b+")
    }),
    member_row!(".prefix", ", prefix: ab", |s| member(s).uri_prefix == "ab+"),
    member_row!(".prefix_on", ", prefix: a_, prefix_on: collision", |s| {
        member(s).prefix_on == PrefixOn::Collision && member(s).uri_prefix.is_empty()
    }),
    member_row!(".uri_prefix", ", prefix: a_, uri_prefix: x.", |s| member(s).uri_prefix == "x."),
    member_row!(".match", ", match: { tools: [a] }", |s| member(s).claims.is_some()),
    member_row!(".match.tools", ", match: { tools: ['a*'] }", |s| {
        member(s).claims.as_ref().unwrap().tools == ["a*"]
    }),
    member_row!(".match.prompts", ", match: { prompts: [a] }", |s| {
        member(s).claims.as_ref().unwrap().prompts == ["a"]
    }),
    member_row!(".match.resources", ", match: { resources: ['a:*'] }", |s| {
        member(s).claims.as_ref().unwrap().resources == ["a:*"]
    }),
    member_row!(".tools", ", tools: {}", |s| member(s).tools.selection.shows("x")),
    member_row!(".tools.allow", ", tools: { allow: ['a*'] }", |s| {
        member(s).tools.selection.shows("ab") && !member(s).tools.selection.shows("b")
    }),
    member_row!(".tools.deny", ", tools: { deny: ['a*'] }", |s| {
        !member(s).tools.selection.shows("ab") && member(s).tools.selection.shows("b")
    }),
    member_row!(".tools.rename", ", tools: { rename: { a.b: c } }", |s| {
        member(s).tools.rename["a.b"] == "c"
    }),
    member_row!(".tools.override", ", tools: { override: { t: { title: x } } }", |s| {
        member(s).tools.overrides.len() == 1
    }),
    said_row!(".description", "description: x", |s| said(s).description.as_deref() == Some("x")),
    said_row!(".title", "title: x", |s| said(s).title.as_deref() == Some("x")),
    said_row!(".annotations", "annotations: { read_only: true, open_world: false }", |s| {
        said(s).hints.len() == 2
    }),
    said_row!(".annotations.title", "annotations: { title: x }", |s| {
        said(s).hint_title.as_deref() == Some("x")
    }),
    said_row!(".annotations.read_only", "annotations: { read_only: true }", |s| {
        said(s).hints["readOnlyHint"]
    }),
    said_row!(".annotations.destructive", "annotations: { destructive: false }", |s| {
        !said(s).hints["destructiveHint"]
    }),
    said_row!(".annotations.idempotent", "annotations: { idempotent: true }", |s| {
        said(s).hints["idempotentHint"]
    }),
    said_row!(".annotations.open_world", "annotations: { open_world: true }", |s| {
        said(s).hints["openWorldHint"]
    }),
    member_row!(".prompts", ", prompts: {}", |s| member(s).prompts.selection.shows("x")),
    member_row!(".prompts.allow", ", prompts: { allow: [a] }", |s| {
        !member(s).prompts.selection.shows("b")
    }),
    member_row!(".prompts.deny", ", prompts: { deny: [a] }", |s| {
        !member(s).prompts.selection.shows("a")
    }),
    member_row!(".prompts.rename", ", prompts: { rename: { a: b } }", |s| {
        member(s).prompts.rename["a"] == "b"
    }),
    member_row!(".resources", ", resources: {}", |s| member(s).resources.shows("x:y")),
    member_row!(".resources.allow", ", resources: { allow: ['a:*'] }", |s| {
        member(s).resources.shows("a:b") && !member(s).resources.shows("b:b")
    }),
    member_row!(".resources.deny", ", resources: { deny: ['a:*'] }", |s| {
        !member(s).resources.shows("a:b")
    }),
];
