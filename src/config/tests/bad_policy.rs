//! Bad policies, and everything that is told about each.

use super::{Row, check_told};

const POLICY: &[Row] = &[
    (
        "policy: { rules: [{ name: a }, { name: b, allow: {}, deny: {} }, { allow: {} }, { name: b, deny: {} }] }\n",
        &[
            "1:21 this rule does nothing (give each rule one of `allow`, `deny` and `require`)",
            "1:34 this rule does several things (give each rule one of `allow`, `deny` and `require`)",
            "1:66 the key `name` is missing (add `name:`)",
            "1:89 a rule of this name is already defined (the first is at t:1:40)",
        ],
    ),
    (
        "policy: { rules: [{ name: a, deny: { tools: [x] } }, { name: b, mode: shadow, allow: {} }] }\n",
        &[
            "1:27 no rule that is enforced allows anything (what no rule allows is denied; add one such as { name: rest, allow: {} })",
        ],
    ),
    (
        r#"policy:
  rules:
    - name: a
      allow:
        callers: [bob, "tenant:x", "tenent:x", [], "*", "b*"]
        servers: [everithing, "every*"]
        tools: [everythin/x, "nowhere*/x", x, x/, []]
        prompts: []
        resources: [""]
        methods: [tools/call, ping]
        scopes: ["a b"]
        whenn: "true"
    - { name: b, require: { tools: [x], scopes: [] } }
    - { name: c, require: { tools: [x] }, mode: off }
"#,
        &[
            "5:19 there is no caller of this name (none is defined)",
            "5:24 no caller belongs to this tenant (none is defined)",
            "5:36 this is no kind of pattern known here (did you mean `tenant:`? A plain id is written id:TEXT)",
            "5:48 this asks for nothing (write [\"tenant:acme\", \"scope:read\"] for callers who fulfil both)",
            "6:19 there is no server of this name (did you mean `everything`?)",
            "7:17 there is no server of this name (did you mean `everything`?)",
            "7:47 a part of this pattern is empty (write server/name, or a name for any server; `*` stands for any characters)",
            "7:51 a pattern is expected here, this is a list (remove the brackets or the dash)",
            "8:9 this list is empty, so the rule matches nothing (name something, or leave the key out)",
            "9:21 this pattern is empty (write `*` for everything)",
            "10:19 this method is decided by what it names (write tools: [\"*\"])",
            "11:18 this is not a scope (a scope has no spaces, quotes or backslashes; write one per list item)",
            "12:9 the key `whenn` is unknown (did you mean `when`?)",
            "13:18 this rule requires no scope (name one in `scopes`)",
            "14:18 the key `scopes` is missing (add `scopes:`)",
            "14:49 this is not one of the words known here (write one of: enforce, shadow)",
        ],
    ),
    (
        r#"policy:
  labels: { secret: [x], empty: [], "a b": [everithing/x] }
  combinations:
    - { name: a, after: secrets, deny: egress, within: session }
    - { name: a, after: secret, deny: secret, within: 10 }
    - { name: b, after: secret, deny: secret, within: 10m, otherwise: 5m }
"#,
        &[
            "2:26 no tool has this label (write server/tool patterns, such as [\"vault/*\"], or leave it out)",
            "2:37 this is not a name (use letters, digits, `_`, `-` and `.`, at most 64 in all)",
            "2:45 there is no server of this name (did you mean `everything`?)",
            "4:25 no tool has this label (did you mean `secret`?)",
            "4:40 no tool has this label (defined are: secret, empty, a b)",
            "5:15 a rule of this name is already defined (the first is at t:4:15)",
            "5:55 this is not a duration (write session, or a time such as 10m)",
            "6:60 `otherwise` has no meaning here (leave it out; it goes with `within: session`)",
        ],
    ),
    (
        r#"identity: { api_keys: [{ caller: alice, tenant: acme, sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa }] }
policy: { rules: [{ name: a, allow: { callers: [alise, "tenant:acne", "alice", "scope:any", "claim:a=b"] } }] }
"#,
        &[
            "2:49 there is no caller of this name (did you mean `alice`?)",
            "2:56 no caller belongs to this tenant (did you mean `acme`?)",
        ],
    ),
];

#[test]
fn policy() {
    check_told(POLICY);
}
