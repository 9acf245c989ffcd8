//! Bad values of servers, and everything that is told about each.

use super::{Row, check_told};

const SERVERS: &[Row] = &[
    (
        "servers: {}\n",
        &[
            "1:1 no server is defined (add `servers:` with a name and its `endpoints:`)",
            "3:32 there is no server of this name (define it under `servers`)",
        ],
    ),
    (
        "servers: [everything]\n",
        &[
            "1:10 a map from names to values is expected here, this is a list (remove the brackets or the dash)",
        ],
    ),
    (
        r#"servers:
  everything:
    owner: me
"#,
        &["2:3 the key `endpoints` is missing (add `endpoints:` or `discovery:`)"],
    ),
    (
        "servers: { everything: { endpoints: [] } }\n",
        &[
            "1:26 a server needs at least one endpoint (write [http://10.0.0.1:8000/mcp], or add `discovery:`, or an admin token that may register some)",
        ],
    ),
    (
        "servers: { everything: http://127.0.0.1:3001/mcp }\n",
        &[
            "1:24 a map is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    (
        "servers: { everything: { endpoints: http://127.0.0.1:3001/mcp } }\n",
        &[
            "1:37 a list is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    (
        r#"servers:
  everything:
    endpoints:
      - 127.0.0.1:3001/mcp
      - ws://127.0.0.1:3001/mcp
      - http://user:password@127.0.0.1:3001/mcp
      - http://127.0.0.1:3001/mcp#a
      - http://127.0.0.1:99999/mcp
      - { url: http://127.0.0.1:3001/mcp, weight: 0 }
      - { weight: 2 }
"#,
        &[
            "4:9 this is not an absolute URL (write it like http://10.0.0.1:8000/mcp)",
            "5:9 only http and https are spoken (write it like http://10.0.0.1:8000/mcp)",
            "6:9 a URL with a user name or password is not allowed (remove what stands before the @)",
            "7:9 a URL with a fragment is not allowed (remove the # and what follows)",
            "8:9 the port must be a number from 1 to 65535 (correct it, or leave it out)",
            "9:51 a weight is a number from 1 to 256 (to take an endpoint out, remove it)",
            "10:9 the key `url` is missing (add `url:`)",
        ],
    ),
    (
        r#"servers: { everything: { endpoints: [http://a/mcp, "HTTP://A:80/mcp"] } }
"#,
        &["1:52 this endpoint is already in the list (the first is at t:1:38)"],
    ),
    (
        r#"servers: { "every thing": { endpoints: [http://a/mcp] }, everything: { endpoints: [http://a/mcp] } }
"#,
        &["1:12 this is not a name (use letters, digits, `_`, `-` and `.`, at most 64 in all)"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/mcp], balance: { algorithm: least_request, key: session } } }\n",
        &["1:90 least_request has no key (remove the key, or use consistent_hash)"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/mcp], balance: { algorithm: random, key: headers:x } } }\n",
        &[
            "1:75 this is not one of the words known here (write one of: consistent_hash, round_robin, least_request)",
            "1:88 this cannot be hashed (write session, caller, tenant, tool or header:NAME)",
        ],
    ),
    (
        r#"servers: { everything: { endpoints: [http://a/mcp], balance: { algorithm: least_requests, key: "header:a b" } } }
"#,
        &[
            "1:75 this is not one of the words known here (did you mean `least_request`?)",
            "1:96 this cannot be hashed (write session, caller, tenant, tool or header:NAME)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/mcp], protocol: h2, timeouts: { connect: 1, idle: 1s } } }\n",
        &[
            "1:63 this is not one of the words known here (write one of: http1, http2)",
            "1:88 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "1:91 the key `idle` is unknown (known here: connect, first_byte, stream_idle, total)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/mcp], balance: { algorithm: round_robin, key: session } } }\n",
        &["1:88 round_robin has no key (remove the key, or use consistent_hash)"],
    ),
    (
        r#"servers: { everything: { endpoints: [] } }
admin: { listen: 127.0.0.1:1, tokens: [{ role: read, sha256: 3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7 }] }
"#,
        &[
            "1:26 a server needs at least one endpoint (write [http://10.0.0.1:8000/mcp], or add `discovery:`, or an admin token that may register some)",
        ],
    ),
    (
        r#"servers: { everything: { endpoints: [] } }
admin: { listen: 127.0.0.1:1, tokens: [{ role: operater }] }
"#,
        &[
            "2:40 the key `sha256` is missing (add `sha256:`)",
            "2:48 this is not a role (write read, register:SERVER or operate)",
        ],
    ),
    (
        r#"servers:
  everything: { discovery: {} }
  b: { discovery: { dns: http://a/, file: absent.yaml } }
  c: { discovery: { file: absent.yaml } }
  d: { discovery: { dns: http://10.0.0.1:80/ } }
  e: { discovery: { dns: a } }
  f: { discovery: endpoints.yaml }
  g: { discovery: { kubernetes: a/b } }
  h: { discovery: { consul: a } }
"#,
        &[
            "2:17 nothing says where endpoints are found (write `dns: URL`, `file: PATH` or `kubernetes: { service: NAMESPACE/NAME }`)",
            "3:37 endpoints are found in one way, and here are several (keep one of `dns`, `file` and `kubernetes`)",
            "4:27 there is no file absent.yaml (paths are relative to the file that names them)",
            "5:26 this names an address, so there is nothing to look up (write it under `endpoints`)",
            "6:26 this is not an absolute URL (write it like http://10.0.0.1:8000/mcp)",
            "7:19 a map is expected here, this is text (a list is written [a, b], a map { key: value })",
            "8:33 a map is expected here, this is text (a list is written [a, b], a map { key: value })",
            "9:8 nothing says where endpoints are found (write `dns: URL`, `file: PATH` or `kubernetes: { service: NAMESPACE/NAME }`)",
            "9:21 the key `consul` is unknown (known here: dns, file, kubernetes)",
        ],
    ),
    (
        r#"servers:
  everything:
    endpoints: [http://a/mcp]
    on_endpoint_loss: moves
    slow_start: 30
    health: { probe: ping, path: health, interval: 0s, timeout: 1, unhealthy_after: 0, healthy_after: x }
"#,
        &[
            "4:23 this is not one of the words known here (did you mean `move`?)",
            "5:17 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "6:22 this is not one of the words known here (write one of: off, tcp, http, mcp)",
            "6:34 a path begins with / (write it like /health)",
            "6:52 a duration must be longer than nothing (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "6:65 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "6:85 this number must be at least 1 (write a whole number from 1)",
            "6:103 this is not a number (write a whole number from 1 to 4294967295)",
        ],
    ),
    (
        r#"servers:
  everything: { endpoints: [http://a/mcp], health: { probe: mcp, path: /health } }
  b: { endpoints: [http://a/mcp], health: { path: /health } }
  c: { endpoints: [http://a/mcp], health: { probe: http, path: "/a b" } }
"#,
        &[
            "2:66 only the http probe has a path (remove the path, or write `probe: http`)",
            "3:45 only the http probe has a path (remove the path, or write `probe: http`)",
            "4:64 the path holds a character that a URL may not hold (percent-encode it)",
        ],
    ),
    (
        r#"servers:
  everything:
    endpoints: [http://a/mcp]
    ejection: { consecutive_failures: -1, failure_rate: 50%, requests_min: 0, window: 0s, duration: 0s, fraction_max: 1.1, panic_below: NaN }
    breaker: { in_flight_max: 0, pending_max: -1 }
    retries: { attempts: two, budget: -0.1, tools: "*" }
"#,
        &[
            "4:39 this is not a number (write a whole number from 0 to 4294967295)",
            "4:57 this is not a fraction (write a number from 0 to 1, such as 0.5)",
            "4:76 this number must be at least 1 (write a whole number from 1)",
            "4:87 a duration must be longer than nothing (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "4:101 a duration must be longer than nothing (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "4:119 this is not a fraction (write a number from 0 to 1, such as 0.5)",
            "4:137 this is not a fraction (write a number from 0 to 1, such as 0.5)",
            "5:31 this number must be at least 1 (write a whole number from 1)",
            "5:47 this is not a number (write a whole number from 0 to 4294967295)",
            "6:26 this is not a number (write a whole number from 0 to 4294967295)",
            "6:39 this is not a fraction (write a number from 0 to 1, such as 0.5)",
            "6:52 a list is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    (
        r#"servers:
  everything:
    endpoints: [http://a/mcp]
    ejection: { duration: 1h, duration_max: 30m }
    circuit_breaker: {}
    retries: { tools: ["", "a\u0007"] }
"#,
        &[
            "4:31 the longest ejection is shorter than the first (raise `duration_max`, or lower `duration`)",
            "5:5 the key `circuit_breaker` is unknown (it is called `breaker` here)",
            "6:24 this text is empty (write something, or leave the key out)",
            "6:28 this is not a pattern of tools (use at most 256 characters and no control characters)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], definitions: { on_change: hide } } }\n",
        &["1:76 this is not one of the words known here (write one of: record, withhold, refuse)"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], catalog: { listing: off }, definitions: { on_change: refuse } } }\n",
        &[
            "1:77 changes can only be held back where the gateway lists the server (write `catalog: { listing: on }`, or `on_change: record`)",
        ],
    ),
];

#[test]
fn servers() {
    check_told(SERVERS);
}
