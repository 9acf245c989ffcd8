//! Makes messages of MCP from a string of choices, and then breaks some of them.

/// The choices; when they run out, every further one is the first, which keeps bodies small and valid.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        usize::from(*first) % bound
    }

    /// True once in `times`; never when the choices have run out.
    fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// The body that these choices make.
pub(crate) fn body(choices: &[u8]) -> Vec<u8> {
    let mut choices = Choices { bytes: choices };
    let mut out = message(&mut choices).into_bytes();
    if choices.rarely(3) {
        for _ in 0..=choices.below(3) {
            mutate(&mut choices, &mut out);
        }
    }
    out
}

const METHODS: &[&str] = &[
    "tools/call",
    "tools/list",
    "prompts/get",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "tasks/result",
    "initialize",
    "completion/complete",
    "notifications/cancelled",
    "x/y",
];

fn message(choices: &mut Choices<'_>) -> String {
    let mut members = vec![("jsonrpc", r#""2.0""#.to_owned())];
    match choices.below(8) {
        6 => members.extend([("id", id(choices)), ("result", "{}".to_owned())]),
        7 => members
            .extend([("id", id(choices)), ("error", r#"{"code":1,"message":""}"#.to_owned())]),
        kind => {
            let method = choices.pick(METHODS);
            members.extend([("method", literal(choices, method)), ("params", params(choices))]);
            if kind != 5 {
                members.push(("id", id(choices)));
            }
        }
    }
    let message = object(choices, members);
    match choices.below(40) {
        37 => format!("[{message}]"),
        38 => format!(" \r\n\t{message} \n"),
        39 => value(choices, 0),
        _ => message,
    }
}

fn params(choices: &mut Choices<'_>) -> String {
    let mut members = Vec::new();
    for _ in 0..choices.below(5) {
        let key = choices.pick(&[
            "name",
            "arguments",
            "_meta",
            "uri",
            "ref",
            "taskId",
            "protocolVersion",
            "requestId",
            "cursor",
        ]);
        if members.iter().any(|(other, _)| *other == key) {
            continue;
        }
        let value = match key {
            "arguments" => nested(choices),
            "_meta" => meta(choices),
            "requestId" => id(choices),
            "ref" => {
                let kind = choices.pick(&[r#""ref/prompt""#, r#""ref/resource""#]).to_owned();
                let members =
                    vec![("type", kind), ("name", string(choices)), ("uri", string(choices))];
                object(choices, members)
            }
            _ => string(choices),
        };
        members.push((key, value));
    }
    object(choices, members)
}

fn meta(choices: &mut Choices<'_>) -> String {
    let members = vec![
        ("progressToken", id(choices)),
        ("io.modelcontextprotocol/protocolVersion", r#""2026-07-28""#.to_owned()),
        ("io.modelcontextprotocol/clientCapabilities", value(choices, 0)),
        ("io.modelcontextprotocol/logLevel", string(choices)),
    ];
    let first = choices.below(members.len());
    object(choices, members.into_iter().skip(first).collect())
}

/// Writes members in some order, sometimes twice, disguised, with a wrong type or with strangers among them.
fn object(choices: &mut Choices<'_>, mut members: Vec<(&str, String)>) -> String {
    if choices.rarely(4) {
        members.reverse();
    }
    if choices.rarely(24) && !members.is_empty() {
        let again = members[choices.below(members.len())].clone();
        members.push(again);
    }
    if choices.rarely(24) && !members.is_empty() {
        let wrong = value(choices, 0);
        let place = choices.below(members.len());
        members[place].1 = wrong;
    }
    if choices.rarely(6) {
        members.push((
            choices.pick(&["level", "argument", "nam", "", "ids", "paramsé", "Na", "x\u{17f}"]),
            value(choices, 0),
        ));
    }
    if choices.rarely(40) && !members.is_empty() {
        members.remove(choices.below(members.len()));
    }
    let mut out = String::from("{");
    for (place, (key, value)) in members.iter().enumerate() {
        out.push_str(if place == 0 { "" } else { "," });
        out.push_str(choices.pick(&["", "", "", " ", "\n  ", "\r\n\t          "]));
        out.push_str(&if choices.rarely(40) {
            disguised(choices, key)
        } else {
            literal(choices, key)
        });
        out.push_str(choices.pick(&[":", ":", ":", " : "]));
        out.push_str(value);
    }
    out.push('}');
    out
}

/// A literal of this string, sometimes with escapes that mean the same.
fn literal(choices: &mut Choices<'_>, text: &str) -> String {
    if !choices.rarely(12) {
        return format!("\"{text}\"");
    }
    let escaped = choices.below(text.len().max(1));
    let mut out = String::from("\"");
    for (place, character) in text.char_indices() {
        match character {
            '/' => out.push_str("\\/"),
            _ if place == escaped && u32::from(character) < 0x10000 => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// A key that some parser takes for this one.
fn disguised(choices: &mut Choices<'_>, key: &str) -> String {
    match choices.below(8) {
        0 => format!("\"{}\"", key.to_ascii_uppercase()),
        1 => format!("\"{key}\\u0000\""),
        2 => format!("\"{key}\\u0000x\""),
        3 => format!("\"{}\"", key.replace('s', "\u{17f}")),
        4 => format!("\"{}\"", key.replace('k', "\u{212a}").replace('i', "\u{131}")),
        5 => format!("\"{}\"", key.replace('s', "\\u017F")),
        6 => format!("\"{key}\\ud800\""),
        _ => {
            let split = choices.below(key.len().max(1));
            let (left, right) = key.split_at_checked(split).unwrap_or((key, ""));
            format!("\"{left}{}\"", right.to_ascii_uppercase())
        }
    }
}

fn id(choices: &mut Choices<'_>) -> String {
    let ids =
        ["1", "0", "-7", "\"a\"", "\"\\u0061\"", "12345678901234567890123", "\"\\ud83e\\udd80\""];
    let wrong = ["null", "1.0", "1e3", "true", "{}", "[1]", "\"\\ud800\""];
    if choices.rarely(20) { choices.pick(&wrong).to_owned() } else { choices.pick(&ids).to_owned() }
}

fn string(choices: &mut Choices<'_>) -> String {
    let mut out = String::from("\"");
    for _ in 0..choices.below(6) {
        out.push_str(choices.pick(&[
            "search",
            "a",
            "/",
            "é",
            "🦀",
            " ",
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u00e9",
            "\\ud83e\\udd80",
            "file:///x",
            "prose that is so long that it is read in blocks of thirty-two bytes, and é",
            "\\t",
        ]));
        if choices.rarely(150) {
            out.push_str(choices.pick(&["\\ud800", "\\udc00", "\\ud800\\u0041", "\\u0000"]));
        }
    }
    out.push('"');
    out
}

fn nested(choices: &mut Choices<'_>) -> String {
    if !choices.rarely(30) {
        return value(choices, 0);
    }
    let levels = 115 + choices.below(20);
    let (open, close) = choices.pick(&[("[", "]"), (r#"{"a":"#, "}")]);
    [open.repeat(levels), "1".to_owned(), close.repeat(levels)].concat()
}

fn value(choices: &mut Choices<'_>, depth: usize) -> String {
    match choices.below(if depth < 3 { 12 } else { 9 }) {
        1 => "{}".to_owned(),
        2 => "null".to_owned(),
        3 => choices.pick(&["true", "false"]).to_owned(),
        4 => choices
            .pick(&["0", "-1", "1.5", "1e999", "-0.0E+7", "123456789012345678901"])
            .to_owned(),
        5 => "\"\\ud800\"".to_owned(),
        6 => "[]".to_owned(),
        0 | 7 | 8 => string(choices),
        9 | 10 => {
            let items: Vec<String> =
                (0..choices.below(4)).map(|_| value(choices, depth + 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let items: Vec<String> = (0..choices.below(4))
                .map(|_| format!("{}:{}", string(choices), value(choices, depth + 1)))
                .collect();
            format!("{{{}}}", items.join(","))
        }
    }
}

/// Changes one place, as damage or an attacker would.
fn mutate(choices: &mut Choices<'_>, body: &mut Vec<u8>) {
    const TOKENS: &[&[u8]] = &[
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\ud800",
        b"\\u0000",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"NaN",
        b"01",
        b"-",
        b"1.",
        b"//",
        b"/**/",
        b"\n",
        b"\x00",
        b"\x1f",
        b" ",
        b"\xc5\xbf",
        b"null",
        b"tru",
        b"e",
        b"\x7f",
        b"\xc2\xa0",
    ];
    let place = (choices.below(256) << 8 | choices.below(256)) % (body.len() + 1);
    match choices.below(6) {
        0 => _ = body.splice(place..place, choices.pick(TOKENS).iter().copied()),
        1 => body.truncate(place),
        2 => body.extend_from_slice(choices.pick(TOKENS)),
        3 if place < body.len() => _ = body.remove(place),
        4 if place < body.len() => body[place] ^= 1 << choices.below(8),
        5 if place < body.len() => body.swap(place, place / 2),
        _ => _ = body.splice(..0, choices.pick(TOKENS).iter().copied()),
    }
}
