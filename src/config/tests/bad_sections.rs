//! Bad values, section by section, and everything that is told about each.

use super::{Row, check_told};

const LISTENERS_HEALTH_AND_ADMIN: &[Row] = &[
    (
        "listen: localhost:8080\n",
        &["1:9 this is not an address to listen on (write 127.0.0.1:8080)"],
    ),
    (
        "listen: :8080\n",
        &[
            "1:9 this is not an address to listen on (write 0.0.0.0:8080 for every address, or 127.0.0.1:8080)",
        ],
    ),
    (
        "listen: 127.0.0.1\n",
        &[
            "1:9 this is not an address to listen on (write an IP address and a port: 127.0.0.1:8080 or [::1]:8080)",
        ],
    ),
    (
        "listen: [127.0.0.1:8080]\n",
        &["1:9 an address is expected here, this is a list (remove the brackets or the dash)"],
    ),
    (
        r#"listen: 127.0.0.1:8080
listeners: [{ address: 127.0.0.1:8081 }]
"#,
        &["1:1 `listen` and `listeners` are both given (move the address into `listeners`)"],
    ),
    ("listeners: []\n", &["1:1 the list of listeners is empty (add `- address: 127.0.0.1:8080`)"]),
    (
        r#"listeners:
  - address: 127.0.0.1:8080
  - address: 127.0.0.1:8080
"#,
        &["3:14 another listener has this address (the other is at t:2:14)"],
    ),
    (
        r#"listeners: [{ address: 127.0.0.1:8080 }, { address: 0.0.0.0:8080 }]
identity: { anonymous: allow }
"#,
        &["1:53 another listener has this address (the other is at t:1:24)"],
    ),
    (
        r#"health: { listen: 127.0.0.1:8080 }
admin: { listen: 127.0.0.1:8080 }
"#,
        &[
            "2:18 another listener has this address (the other is at t:1:19)",
            "3:9 another listener has this address (the other is at t:1:19)",
        ],
    ),
    (
        "admin: { listen: 0.0.0.0:9901 }\n",
        &[
            "1:18 the admin listener asks for no token, so it must be on loopback (write 127.0.0.1:9901, or add `tokens`)",
        ],
    ),
    (
        "admin: { listen: 0.0.0.0:9901, tokens: [] }\n",
        &[
            "1:18 the admin listener asks for no token, so it must be on loopback (write 127.0.0.1:9901, or add `tokens`)",
        ],
    ),
    (
        r#"admin:
  listen: 0.0.0.0:9901
  tokens:
    - my-plain-text-token
    - { role: admin, sha256: abc }
    - { role: "register:", sha256: 3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7 }
    - { role: read, sha256: 3A6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7 }
    - {}
"#,
        &[
            "4:7 a map is expected here, this is text (a list is written [a, b], a map { key: value })",
            "5:15 this is not a role (write read, register:SERVER or operate)",
            "5:30 a SHA-256 digest has 64 hexadecimal digits (this is the digest, not the secret: printf %s SECRET | sha256sum)",
            "6:15 this is not a name (use letters, digits, `_`, `-` and `.`, at most 64 in all)",
            "7:29 this token is already defined (the first is at t:6:36)",
            "8:7 the key `role` is missing (add `role:`)",
            "8:7 the key `sha256` is missing (add `sha256:`)",
        ],
    ),
    (
        r#"admin: {}
health: {}
"#,
        &[
            "1:1 the key `listen` is missing (add `listen:`)",
            "2:1 the key `listen` is missing (add `listen:`)",
        ],
    ),
    (
        "listen: 0.0.0.0:8080\n",
        &[
            "1:9 without `identity` everyone may call, and this address is not loopback (add `identity:` with `api_keys`, or say so with `identity: { anonymous: allow }`)",
        ],
    ),
    (
        r#"listeners: [{ address: "[::]:8080" }]
"#,
        &[
            "1:24 without `identity` everyone may call, and this address is not loopback (add `identity:` with `api_keys`, or say so with `identity: { anonymous: allow }`)",
        ],
    ),
    (
        r#"listeners:
  - tls: { certificate: absent.crt }
"#,
        &[
            "2:5 the key `address` is missing (add `address:`)",
            "2:5 the key `key` is missing (add `key:`)",
            "2:25 there is no file absent.crt (paths are relative to the file that names them)",
        ],
    ),
    (
        r#"listeners:
  - address: 127.0.0.1:8080
    tls: { certificate: absent.crt, certificates: [], client_crl: absent.crl }
  - address: 127.0.0.1:8081
    tls: { certificates: [{ certificate: absent.crt }, { key: absent.key }] }
"#,
        &[
            "3:12 this and `certificates` are both given (move the pair into `certificates`; the first there is the default)",
            "3:37 TLS needs at least one certificate (write [{ certificate: tls.crt, key: tls.key }])",
            "3:55 clients are not asked for certificates (add `client_ca`)",
            "3:67 there is no file absent.crl (paths are relative to the file that names them)",
            "5:27 the key `key` is missing (add `key:`)",
            "5:42 there is no file absent.crt (paths are relative to the file that names them)",
            "5:56 the key `certificate` is missing (add `certificate:`)",
            "5:63 there is no file absent.key (paths are relative to the file that names them)",
        ],
    ),
    (
        r#"listeners:
  - address: 127.0.0.1:8080
    allowed_hosts: [https://a, "*.b", "a b", ""]
    allowed_origins: ["*", app.example.com, https://a/]
    trusted_proxies: [10.0.0.1/8, ten]
    proxy_protocol: v3
"#,
        &[
            "3:21 a host has no scheme and no path (write it like mcp.example.com or mcp.example.com:8443)",
            "3:32 a host is not a pattern (name each host, or leave the key out)",
            "3:39 this does not name a host (write a host name, an IPv4 address or an [IPv6] address)",
            "3:46 this does not name a host (write a host name, an IPv4 address or an [IPv6] address)",
            "4:23 an origin has a scheme and a host (write it like https://app.example.com)",
            "4:28 an origin has a scheme and a host (write it like https://app.example.com)",
            "4:45 an origin ends with its host or port (remove the path, also a single / at the end)",
            "5:23 this network has bits set behind its prefix (write 10.0.0.0/8)",
            "5:35 this is not a network (write 10.0.0.0/8, 2001:db8::/32 or one address)",
            "6:21 this is not one of the words known here (did you mean `v2`?)",
        ],
    ),
    (
        "listeners: [{ address: 127.0.0.1:8080, allowed_hosts: [] }]\n",
        &[
            "1:55 no host could be named, so no request could be served (name the hosts, or leave the key out)",
        ],
    ),
    (
        "listeners: [{ address: 127.0.0.1:8080, limits: { head_bytes_max: 64KB, head_timeout: 1d, body_timeout: 9000h, streams_per_connection_max: 4294967296 } }]\n",
        &[
            "1:66 this is not a size (write a whole number and a unit: 512B, 64KiB, 4MiB, 1GiB)",
            "1:86 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "1:104 a duration of more than a year is not allowed (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "1:139 this is not a number (write a whole number from 1 to 4294967295)",
        ],
    ),
];

#[test]
fn listeners_health_and_admin() {
    check_told(LISTENERS_HEALTH_AND_ADMIN);
}

const ROUTES_AND_INCLUDE: &[Row] = &[
    ("routes: []\n", &["1:1 no route is defined (add `routes:` with `path:` and `server:`)"]),
    (
        "routes: [{ path: /mcp, server: everthing }]\n",
        &["1:32 there is no server of this name (did you mean `everything`?)"],
    ),
    (
        "routes: [{ path: /mcp, server: github }]\n",
        &["1:32 there is no server of this name (defined are: everything)"],
    ),
    (
        "routes: [{ path: /mcp, server: everything }, { path: /mcp, server: everything }]\n",
        &["1:54 a route of this path is already defined (the first is at t:1:18)"],
    ),
    (
        "routes: [{ server: everything }, { path: /mcp }]\n",
        &[
            "1:10 the key `path` is missing (add `path:`)",
            "1:42 no server answers this route (add `server: NAME`, or `servers:` with a list)",
        ],
    ),
    (
        r#"routes:
  - { path: mcp, server: everything }
  - { path: "/a?b", server: everything }
  - { path: "/a#b", server: everything }
  - { path: /a//b, server: everything }
  - { path: /a/../b, server: everything }
  - { path: /.well-known/mcp, server: everything }
  - { path: /a%2fb, server: everything }
"#,
        &[
            "2:13 a path begins with / (write it like /mcp)",
            "3:13 a path has no query (remove the ? and what follows)",
            "4:13 a path has no fragment (remove the # and what follows)",
            "5:13 a path has no empty segment (write a single /)",
            "6:13 a path has no . or .. segment (write the path that is meant)",
            "7:13 the gateway answers /.well-known itself (choose another path)",
            "8:13 the path holds a character that is not compared safely (use letters, digits, - . _ ~ and /)",
        ],
    ),
    (
        r#"routes:
  - { path: /a, server: everything, public_url: /mcp, body_bytes_max: 4 }
  - { path: /b, server: everything, public_url: https://a/mcp?x }
  - { path: /c, server: everything, public_url: https://a/mcp }
  - { path: /d, server: everything, public_url: https://A:443/mcp }
"#,
        &[
            "2:49 this is not an absolute URL (write it like http://10.0.0.1:8000/mcp)",
            "2:71 this is not a size (write a whole number and a unit: 512B, 64KiB, 4MiB, 1GiB)",
            "3:49 a public URL has no query (remove the ? and what follows)",
            "5:49 another route has this public URL (the first is at t:4:49)",
        ],
    ),
    (
        "include: absent/*.yaml\n",
        &[
            "1:10 a list is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    (
        "include: [absent/*.yaml, absent.yaml]\n",
        &[
            "1:11 no file matches (patterns are relative to this file; `*` and `?` stand for characters within a name)",
            "1:26 no file matches (patterns are relative to this file; `*` and `?` stand for characters within a name)",
        ],
    ),
];

#[test]
fn routes_and_include() {
    check_told(ROUTES_AND_INCLUDE);
}

const SESSIONS_AND_IDENTITY: &[Row] = &[
    (
        "sessions: { idle: 0s, table_max: 0, reap: yes }\nruntime: { connection_age_max: never }\n",
        &[
            "1:19 a duration must be longer than nothing (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "1:34 this number must be at least 1 (write a whole number from 1)",
            "1:43 this is not one of the words known here (write one of: auto, on, off)",
            "2:32 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
        ],
    ),
    (
        r#"sessions:
  keys: [tooshort, "${SHORT}", "${UNSET}", 0123456789abcdef0123456789abcdef, 0123456789abcdef0123456789abcdef]
  lifetime: 1 day
"#,
        &[
            "2:10 a session key has at least 32 characters (make one with: openssl rand -base64 32)",
            "2:20 a session key has at least 32 characters (make one with: openssl rand -base64 32)",
            "2:32 the environment variable `UNSET` is not set (set it, or give a default: ${UNSET:-default})",
            "2:78 this session key is in the list twice (remove one of them)",
            "3:13 this is not a duration (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
        ],
    ),
    (
        "sessions: { keys: 0123456789abcdef0123456789abcdef }\n",
        &[
            "1:19 a list is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    (
        r#"sessions: { keys: ["file:/absent/key"] }
"#,
        &[
            "1:20 /absent/key cannot be read: No such file or directory (os error 2) (paths are relative to the file that names them)",
        ],
    ),
    (
        "sessions: { key: [0123456789abcdef0123456789abcdef] }\n",
        &["1:13 the key `key` is unknown (did you mean `keys`?)"],
    ),
    (
        "identity: { anonymous: true }\n",
        &["1:24 this is not one of the words known here (write one of: allow, deny)"],
    ),
    (
        "identity: { anonymous: deny }\n",
        &[
            "1:13 nobody could call: there is no way to prove a caller and anonymous callers are denied (add `api_keys`, `jwt`, `introspection` or `certificates`, or write `anonymous: allow`)",
        ],
    ),
    (
        "identity: { api_keys: [my-plain-text-key] }\n",
        &[
            "1:24 a map is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
    (
        "identity: { api_keys: { file: absent.yaml } }\n",
        &[
            "1:31 absent.yaml cannot be read: No such file or directory (os error 2) (check the path and who may read it)",
        ],
    ),
    (
        r#"identity:
  api_keys:
    - { caller: a, sha256: abc }
    - { tenant: a, scopes: ["a b"], sha256: 3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7 }
    - { caller: b, sha256: 3A6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7 }
"#,
        &[
            "3:28 a SHA-256 digest has 64 hexadecimal digits (this is the digest, not the secret: printf %s SECRET | sha256sum)",
            "4:7 the key `caller` is missing (add `caller:`)",
            "4:29 this is not a scope (a scope has no spaces, quotes or backslashes; write one per list item)",
            "5:28 this API key is already defined (the first is at t:4:45)",
        ],
    ),
];

#[test]
fn sessions_and_identity() {
    check_told(SESSIONS_AND_IDENTITY);
}

const LIMITS: &[Row] = &[
    (
        r#"limits:
  - { name: a, key: [caller, caller, toolz], rate: 50 }
  - { name: a, burst: 5, cost: { "everything/*": 3 } }
  - { name: "b c", rate: 5/s, cost: { "everthing/*": 3, "*": 6 } }
  - { rate: 1/h, burst: 10000, wait: 2m, keys_max: 1000001 }
"#,
        &[
            "2:30 the key has this part already (remove it)",
            "2:38 this is not one of the words known here (did you mean `tool`?)",
            "2:52 this is not a rate (write a whole number and a time: 50/s, 100/m, 10/h)",
            "3:13 a limit of this name is already defined (the first is at t:2:13)",
            "3:13 this limits nothing (add `rate`, `in_flight` or `streams`, or leave it out)",
            "3:16 only a rate has a burst (add `rate`, or remove it)",
            "3:26 only a rate weighs calls (add `rate`, or remove it)",
            "4:13 this is not a name (use letters, digits, `_`, `-` and `.`, at most 64 in all)",
            "4:39 there is no server of this name (did you mean `everything`?)",
            "4:62 this costs more than the burst, so it could never be called (write at most 5, or raise `burst`)",
            "5:5 the key `name` is missing (add `name:`)",
            "5:25 this burst takes more than a year to come back (lower `burst`, or raise `rate`)",
            "5:38 no call waits longer than a minute (write at most 60s)",
            "5:52 a limit cannot count so many keys apart (write at most 1000000)",
        ],
    ),
    (
        "limits: [{ name: a, key: [tool, caller], streams: 2 }, { name: b, streams: 0 }]\n",
        &[
            "1:42 no stream is of one tool, so this limits nothing (make a limit without `tool` in its key for it)",
            "1:76 this number must be at least 1 (write a whole number from 1)",
        ],
    ),
    (
        r#"limits:
  - { name: a1, in_flight: 1, streams: 1 }
  - { name: a2, in_flight: 1, streams: 1 }
  - { name: a3, in_flight: 1, streams: 1 }
  - { name: a4, in_flight: 1, streams: 1 }
  - { name: a5, in_flight: 1, streams: 1 }
  - { name: a6, in_flight: 1, streams: 1 }
  - { name: a7, in_flight: 1, streams: 1 }
  - { name: a8, streams: 1 }
  - { name: a9, streams: 1 }
  - { name: a10, in_flight: 1 }
  - { name: a11, in_flight: 1 }
"#,
        &[
            "10:13 more than 8 limits have `streams` (join some)",
            "12:13 more than 8 limits have `in_flight` (join some)",
        ],
    ),
    (
        "listeners: [{ address: 127.0.0.1:1, limits: { requests_per_address: 200 } }]\n",
        &["1:69 this is not a rate (write a whole number and a time: 50/s, 100/m, 10/h)"],
    ),
];

const AUDIT: &[Row] = &[
    ("audit: {}\n", &["1:1 the key `sinks` is missing (add `sinks:`)"]),
    ("audit: { sinks: [] }\n", &["1:10 the list of sinks is empty (add `- file: audit.jsonl`)"]),
    (
        "audit: { sinks: [stdot, {}, [a]] }\n",
        &[
            "1:18 this is not a sink (write stdout, { file: PATH } or { otlp: { endpoint: URL } })",
            "1:25 this sink names no place (write stdout, { file: PATH } or { otlp: { endpoint: URL } })",
            "1:29 a sink is expected here, this is a list (remove the brackets or the dash)",
        ],
    ),
    (
        "audit: { sinks: [stdout, stdout, { file: a }, { file: a }] }\n",
        &[
            "1:26 this sink is already in the list (the first is at t:1:18)",
            "1:55 this sink is already in the list (the first is at t:1:42)",
        ],
    ),
    (
        r#"audit:
  sinks:
    - { file: a, otlp: { endpoint: http://a } }
    - { otlp: { endpoint: "http://a/?b" }, keep: 1, rotate: 1MiB }
    - { otlp: { endpoint: ftp://a, timeout: 0s, headers: { "a b": c } } }
"#,
        &[
            "3:18 `file` and `otlp` are both given (make two entries of them)",
            "4:27 this URL has a query (give the address of the collector only; /v1/logs is added)",
            "4:44 only a file is rotated (remove this key)",
            "4:53 only a file is rotated (remove this key)",
            "5:27 only http and https are spoken (write it like http://10.0.0.1:8000/mcp)",
            "5:45 a duration must be longer than nothing (write a whole number and a unit: 500ms, 30s, 10m, 24h)",
            "5:60 this is not the name of a header (write it like x-api-key)",
        ],
    ),
    (
        "audit: { sinks: [{ otlp: { endpoint: http://a } }], when_full: wait, queue: { records: 0, bytes: 1KiB } }\n",
        &[
            "1:64 a collector may lose records, so calls cannot wait for it or be refused (add a file to `sinks`, or write `when_full: drop`)",
            "1:88 this number must be at least 1 (write a whole number from 1)",
            "1:98 fewer than 65536 bytes hold no long record (write 64KiB or more)",
        ],
    ),
    (
        "audit: { sinks: [stdout], when_full: wait, queue: { records: 20000 } }\n",
        &[
            "1:38 20000 open streams would hold each of the 20000 places for a record, and nothing else would run (raise `queue` (records, with 256 bytes and more for each), or lower `runtime.streams_max`)",
        ],
    ),
    (
        "audit: { sinks: [stdout], when_full: refuse, queue: { bytes: 64KiB } }\nruntime: { streams_max: 256 }\n",
        &[
            "1:38 256 open streams would hold each of the 256 places for a record, and nothing else would run (raise `queue` (records, with 256 bytes and more for each), or lower `runtime.streams_max`)",
        ],
    ),
    (
        "audit: { sinks: [stdout], arguments: all, when_full: block, redact: secret }\n",
        &[
            "1:38 this is not one of the words known here (write one of: none, digest, redacted)",
            "1:54 this is not one of the words known here (write one of: drop, wait, refuse)",
            "1:69 a list is expected here, this is text (a list is written [a, b], a map { key: value })",
        ],
    ),
];

#[test]
fn limits() {
    check_told(LIMITS);
}

#[test]
fn audit() {
    check_told(AUDIT);
}
