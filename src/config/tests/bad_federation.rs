//! Bad values of several servers shown as one, and everything that is told about each.

use super::{Row, check_told};

const FEDERATIONS: &[Row] = &[
    (
        "routes: [{ path: /mcp }]\n",
        &["1:18 no server answers this route (add `server: NAME`, or `servers:` with a list)"],
    ),
    (
        "routes: [{ path: /mcp, server: everything, servers: [{ name: everything }] }]\n",
        &["1:24 `server` and `servers` are both given (move the server into `servers`)"],
    ),
    (
        "routes: [{ path: /mcp, servers: [] }]\n",
        &["1:24 the list of servers is empty (add `- name: NAME`)"],
    ),
    (
        "routes: [{ path: /mcp, server: everything, when_down: keep, list_page_max: 5 }]\n",
        &[
            "1:44 `when_down` has no meaning here: one server answers (leave it out; it goes with `servers`)",
            "1:61 `list_page_max` has no meaning here: one server answers (leave it out; it goes with `servers`)",
        ],
    ),
    (
        r#"routes:
  - path: /mcp
    servers:
      - { name: everithing }
      - { name: everything, prefix_on: collision }
      - { name: everything, prefix: a.b }
      - { name: everything, prefix: 9_ }
      - { name: everything, uri_prefix: A }
      - { name: everything, match: {} }
"#,
        &[
            "4:17 there is no server of this name (did you mean `everything`?)",
            "5:29 there is no prefix (add `prefix:`, or leave `prefix_on` out)",
            "6:17 this server is in the route already (write all about it in one place; the first is at t:5:17)",
            "6:37 names cannot begin like this (use letters, digits, `_` and `-`, at most 32 in all, such as github_)",
            "7:17 this server is in the route already (write all about it in one place; the first is at t:5:17)",
            "7:37 no URI can begin like this prefix (add `uri_prefix:`, such as files+)",
            "8:17 this server is in the route already (write all about it in one place; the first is at t:5:17)",
            "8:41 schemes cannot begin like this (use small letters, digits and `+`, `-` or `.` at the end, at most 32 in all, such as github+)",
            "9:17 this server is in the route already (write all about it in one place; the first is at t:5:17)",
            "9:29 this matches nothing (write { tools: [\"fs_*\"] }, or leave `match` out)",
        ],
    ),
    (
        r#"servers: { a: { endpoints: [http://a/] }, b: { endpoints: [http://b/] }, c: { endpoints: [http://c/] } }
routes:
  - path: /mcp
    servers:
      - { name: a, prefix: git_, tools: { rename: { x: hub } } }
      - { name: b, prefix: git_hub_, tools: { rename: { y: hub } } }
      - { name: c, prompts: { rename: { z: git_z } } }
"#,
        &[
            "6:28 names of `a` could begin so too (write a `prefix` that does not begin like `git_` at t:5:28)",
            "6:28 names of `a` could begin so too (write a `uri_prefix` that does not begin like `git+` at t:5:28)",
            "6:60 something else is shown by this name (the first is at t:5:56)",
            "7:44 names that begin so are those of `a` (choose another name)",
        ],
    ),
    (
        r#"servers: { a: { endpoints: [http://a/] }, b: { endpoints: [http://b/] }, c: { endpoints: [http://c/] } }
routes:
  - path: /mcp
    servers:
      - { name: a, match: { tools: ["fs_*", "x?"], resources: ["big:*"] } }
      - { name: b, prefix: b_, match: { tools: ["fs_index_*", "c_*", "b_ok", "b*"] } }
      - { name: c, match: { tools: ["x*", "x?"], resources: ["big:a"] } }
"#,
        &[
            "6:49 this pattern is never reached (all that it matches is decided at t:5:37)",
            "6:63 this pattern is never reached (what clients see of this server begins with `b_`)",
            "7:43 this pattern is never reached (all that it matches is decided at t:5:45)",
            "7:62 this pattern is never reached (all that it matches is decided at t:5:64)",
        ],
    ),
    (
        r#"routes:
  - path: /mcp
    servers:
      - name: everything
        tools:
          allow: [read_*, read_file, write_a]
          deny: [write_*, write_b]
          rename: { write_x: w, read_a: "a b", read_b: "" }
          override: { other: { title: x }, read_c: {} }
        prompts: { allow: [] }
"#,
        &[
            "6:27 this pattern is never reached (all that it matches is decided at t:6:19)",
            "6:38 this pattern is never reached (all that it matches is decided at t:7:18)",
            "7:27 this pattern is never reached (all that it matches is decided at t:7:18)",
            "8:21 what has this name is not shown (allow it, or leave this out)",
            "8:41 clients do not take this for a name (use letters, digits, `_` and `-`, at most 64 in all)",
            "8:56 clients do not take this for a name (use letters, digits, `_` and `-`, at most 64 in all)",
            "9:23 what has this name is not shown (allow it, or leave this out)",
            "9:44 nothing is said instead (write `description:`, `title:` or `annotations:`)",
            "10:20 nothing is allowed (write patterns, or leave `allow` out for everything)",
        ],
    ),
];

#[test]
fn bad_federations_are_told_with_their_places() {
    check_told(FEDERATIONS);
}
