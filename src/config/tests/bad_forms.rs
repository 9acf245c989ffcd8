//! Unknown keys, wrong forms, bad references to the environment and bad YAML.

use super::{Row, check_told};

const UNKNOWN_KEYS_AND_WRONG_FORMS: &[Row] = &[
    (
        r#"lisen: 127.0.0.1:8080
listen: 127.0.0.1:8080
"#,
        &["1:1 the key `lisen` is unknown (did you mean `listen`?)"],
    ),
    ("upstreams: {}\n", &["1:1 the key `upstreams` is unknown (it is called `servers` here)"]),
    (
        "runtime: { thread: 2, gracee: 1s, frobnicate: 3 }\n",
        &[
            "1:12 the key `thread` is unknown (did you mean `threads`?)",
            "1:23 the key `gracee` is unknown (did you mean `grace`?)",
            "1:35 the key `frobnicate` is unknown (known here: threads, connections_max, streams_max, upstream_idle_connections, connection_age_max, grace)",
        ],
    ),
    (
        "runtime: [a]\n",
        &["1:10 a map is expected here, this is a list (remove the brackets or the dash)"],
    ),
    (
        "runtime: fast\n",
        &[
            "1:10 a map is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    ("runtime:\n", &["1:1 nothing is written here (give a value, or leave it out)"]),
    (
        "runtime: { threads: many, connections_max: 0, streams_max: -1, upstream_idle_connections: 1e3, grace: 30 }\n",
        &[
            "1:21 this is not a number of threads (write auto, or a number from 1 to 1024)",
            "1:44 this number must be at least 1 (write a whole number from 1)",
            "1:60 this is not a number (write a whole number from 1 to 4294967295)",
            "1:91 this is not a number (write a whole number from 1 to 4294967295)",
            "1:103 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
        ],
    ),
    (
        "runtime: { threads: 0, grace: 0s }\n",
        &[
            "1:21 this is not a number of threads (write auto, or a number from 1 to 1024)",
            "1:31 a duration must be longer than nothing (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
        ],
    ),
    (
        "runtime: { threads: 2, threads: 3 }\n",
        &["1:24 the key `threads` is given twice (the first is at t:1:12)"],
    ),
    (
        r#"state_dir: ""
"#,
        &["1:12 this text is empty (write something, or leave the key out)"],
    ),
    (
        "state_dir: [a, b]\n",
        &["1:12 a path is expected here, this is a list (remove the brackets or the dash)"],
    ),
    (
        "telemetry: { requests: yes, labels: { callers_max: 0, tool_max: 1 } }\n",
        &[
            "1:24 this is not one of the words known here (write one of: json, text, off)",
            "1:52 this number must be at least 1 (write a whole number from 1)",
            "1:55 the key `tool_max` is unknown (did you mean `tools_max`?)",
        ],
    ),
    (
        "telemetry: { requests: jsn }\n",
        &["1:24 this is not one of the words known here (did you mean `json`?)"],
    ),
    (
        "42: x\n",
        &[
            "1:1 the key `42` is unknown (known here: include, listen, listeners, health, admin, runtime, state_dir, sessions, shared, catalog, servers, routes, kubernetes, identity, policy, limits, audit, telemetry)",
        ],
    ),
];

#[test]
fn unknown_keys_and_wrong_forms() {
    check_told(UNKNOWN_KEYS_AND_WRONG_FORMS);
}

const ENVIRONMENT_AND_YAML: &[Row] = &[
    (
        "runtime: !fast { threads: 2 }\n",
        &["1:16 a YAML tag has no meaning here (remove the word that begins with `!`)"],
    ),
    (
        r#"runtime: { grace: "${BADTIME}" }
"#,
        &["1:19 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)"],
    ),
    (
        r#"runtime: { grace: "${UNSET}", threads: "${UN SET}", streams_max: "${OPEN" }
"#,
        &[
            "1:19 the environment variable `UNSET` is not set (set it, or give a default: ${UNSET:-default})",
            "1:40 this is not the name of an environment variable (write ${NAME} or ${NAME:-default}; $${ stands for ${ itself)",
            "1:66 a reference to the environment is not closed (write ${NAME} or ${NAME:-default})",
        ],
    ),
    (
        "runtime: { grace: ${GRACE} }\n",
        &[
            "1:20 this is not YAML: while parsing a flow mapping, did not find expected ',' or '}' (inside [ ] and { } write \"${NAME}\" with quotes)",
        ],
    ),
    (
        "runtime:\n\tthreads: 2\n",
        &[
            "2:2 this is not YAML: tabs disallowed within this context (block indentation) (indent with spaces, not with tabs)",
        ],
    ),
    (
        "runtime: *anchor\n",
        &["1:10 this alias names nothing (name something with `&anchor` before it)"],
    ),
    (
        "runtime: { threads: &self [*self] }\n",
        &["1:28 an alias stands inside what it names (write the value out)"],
    ),
    (
        r#"? [a]
: b
"#,
        &["1:3 a key must be plain text (write `key: value`)"],
    ),
    (
        "runtime: { threads: &n 0, streams_max: *n, grace: *missing, connections_max: *gone }\n",
        &[
            "1:24 this is not a number of threads (write auto, or a number from 1 to 1024)",
            "1:24 this number must be at least 1 (write a whole number from 1)",
            "1:51 this alias names nothing (name something with `&missing` before it)",
            "1:78 this alias names nothing (name something with `&gone` before it)",
        ],
    ),
    (
        "<<: { threads: 2 }\n",
        &[
            "1:1 the key `<<` is unknown (known here: include, listen, listeners, health, admin, runtime, state_dir, sessions, shared, catalog, servers, routes, kubernetes, identity, policy, limits, audit, telemetry)",
        ],
    ),
    (
        r#"servers: !x
routes: [{ path: /mcp, server: a }]
"#,
        &[
            "1:1 nothing is written here (give a value, or leave it out)",
            "1:12 a YAML tag has no meaning here (remove the word that begins with `!`)",
        ],
    ),
    (
        r#"state_dir: "unclosed
"#,
        &[
            "2:1 this is not YAML: invalid indentation in multiline quoted scalar (look at the indentation, quotes and brackets here and just above)",
        ],
    ),
];

#[test]
fn environment_and_yaml() {
    check_told(ENVIRONMENT_AND_YAML);
}
