//! What an answer says of its call, read from its bytes as they pass: no tree, no copy, no allocation.

use super::lists::Listed;
use super::skim::{Cut, Token, bracket_or_quote, pass_text, text_end};

/// What an answer says of the call it answers, the better one first: where a stream has several,
/// the worst counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No answer was seen.
    #[default]
    None,
    /// What came as an answer cannot be read, or has no end.
    Unclear,
    /// A result that reports no error.
    Ok,
    /// A result that asks the client for more (2026-07-28, `input_required`).
    InputRequired,
    /// A result with `isError`.
    ToolError,
    /// A JSON-RPC error, with its code if it has one.
    Error(Option<i32>),
}

impl Verdict {
    /// Whether the server did what it was asked, or has begun to.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Ok | Self::InputRequired)
    }

    /// Whether there was an answer that could be read.
    pub fn is_answer(self) -> bool {
        !matches!(self, Self::None | Self::Unclear)
    }
}

/// Whether a message is the answer to a list method, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// It lists something, or is broken, so that nobody knows what a reader finds in it.
    Yes,
    /// It is something else.
    No,
    /// It may still turn out to be one.
    Open,
}

/// Reads one JSON-RPC message, in whatever parts it comes.
///
/// Only the members of the message, of its result and of its error are looked at; what they contain
/// is passed by, counting brackets. In a well-formed message nothing is missed; of one that is not,
/// only faults at the levels that are read are noticed.
#[derive(Clone, Debug, Default)]
pub struct MessageScan {
    place: Place,
    level: Level,
    /// The member whose value is awaited or read.
    key: Key,
    /// The containers that are open within one that is passed by. A counter of 64 bits has room for
    /// every bracket there will ever be.
    depth: u64,
    token: Token,
    found: u16,
    code: Option<i32>,
    changed: Option<Listed>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// What stands before the message.
    #[default]
    Before,
    /// The next key, or the end of the object.
    Key,
    /// The colon after a key.
    Colon,
    /// The value of `key`.
    Value,
    /// What follows a value.
    Comma,
    /// A string that is read, a key or a value; its bytes go to `token`.
    Read(Text),
    /// Just after a backslash in it.
    Escape(Text),
    /// The digits of `\u` in it, so many to come, with what those before say.
    Hex(Text, u8, u16),
    /// A number, `true`, `false` or `null`.
    Literal,
    /// A container that nobody looks into.
    Skip,
    /// A string that nobody looks into, and just after a backslash in it.
    SkipText,
    SkipEscape,
    /// What stands after the message.
    After,
    /// Nothing that follows has a meaning.
    Broken,
}

impl From<Cut> for Place {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::InText => Self::SkipText,
            Cut::AfterBackslash => Self::SkipEscape,
        }
    }
}

/// What a string that is read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Key,
    Value,
}

/// The objects that are looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Message,
    Result,
    Error,
}

/// The keys that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Method,
    Result,
    Error,
    IsError,
    ResultType,
    Code,
    /// `tools` and its like, which only a list result has.
    List,
    /// What results of other methods have, and lists do not.
    Content,
}

impl Key {
    fn of(level: Level, name: &[u8]) -> Self {
        match (level, name) {
            (Level::Message, b"result") => Self::Result,
            (Level::Message, b"error") => Self::Error,
            (Level::Message, b"method") => Self::Method,
            (Level::Result, b"isError") => Self::IsError,
            (Level::Result, b"resultType") => Self::ResultType,
            (Level::Result, b"content" | b"contents" | b"messages") => Self::Content,
            (Level::Result, b"tools" | b"prompts" | b"resources" | b"resourceTemplates") => {
                Self::List
            }
            (Level::Error, b"code") => Self::Code,
            _ => Self::Other,
        }
    }
}

/// What was found, as bits.
mod found {
    pub(super) const STARTED: u16 = 1;
    pub(super) const METHOD: u16 = 1 << 1;
    pub(super) const RESULT: u16 = 1 << 2;
    pub(super) const ERROR: u16 = 1 << 3;
    pub(super) const IS_ERROR: u16 = 1 << 4;
    pub(super) const INPUT_REQUIRED: u16 = 1 << 5;
    pub(super) const LIST: u16 = 1 << 6;
    pub(super) const CONTENT: u16 = 1 << 7;
}

impl MessageScan {
    /// Reads the next part.
    pub fn feed(&mut self, part: &[u8]) {
        let mut rest = part;
        while !rest.is_empty() {
            rest = match self.place {
                Place::Skip => self.skip(rest),
                Place::SkipText => self.skip_text(rest),
                // What follows `\u` is digits, which pass like any text.
                Place::SkipEscape => {
                    self.place = Place::SkipText;
                    &rest[1..]
                }
                Place::Read(text) => self.read(text, rest),
                Place::Escape(text) => self.escape(text, rest),
                Place::Hex(text, left, unit) => self.hex(text, left, unit, rest),
                Place::Literal => self.literal(rest),
                Place::Broken => return,
                place => self.step(place, rest),
            };
        }
    }

    /// What the message says, if it is over.
    pub fn verdict(&self) -> Verdict {
        match self.place {
            Place::Before => Verdict::None,
            // A request or notification of the server, on its way to the client.
            Place::After if self.has(found::METHOD) => Verdict::None,
            Place::After if self.has(found::ERROR) => Verdict::Error(self.code),
            Place::After if self.has(found::IS_ERROR) => Verdict::ToolError,
            Place::After if self.has(found::INPUT_REQUIRED) => Verdict::InputRequired,
            Place::After if self.has(found::RESULT) => Verdict::Ok,
            Place::After => Verdict::None,
            _ => Verdict::Unclear,
        }
    }

    /// Whether the message is a list.
    pub fn lists(&self) -> Lists {
        let is_over = self.place == Place::After;
        if self.has_list() || (self.place == Place::Broken && self.has(found::STARTED)) {
            return Lists::Yes;
        }
        let result_is_over = self.has(found::RESULT) && self.level != Level::Result;
        let is_other = self.has(found::METHOD | found::ERROR | found::CONTENT);
        match is_over || is_other || result_is_over || self.place == Place::Broken {
            true => Lists::No,
            false => Lists::Open,
        }
    }

    /// Whether the message was seen to list something.
    pub fn has_list(&self) -> bool {
        self.has(found::LIST)
    }

    /// The list that the message says has changed.
    pub fn changed(&self) -> Option<Listed> {
        self.changed
    }

    fn has(&self, bits: u16) -> bool {
        self.found & bits != 0
    }

    /// One byte between the values of an object that is looked into.
    #[inline(always)]
    fn step<'p>(&mut self, place: Place, rest: &'p [u8]) -> &'p [u8] {
        let (byte, after) = (rest[0], &rest[1..]);
        self.place = match (place, byte) {
            (_, b' ' | b'\n' | b'\r' | b'\t') => place,
            (Place::Key, b'"') => return self.begin(Text::Key, after),
            (Place::Colon, b':') => Place::Value,
            (Place::Value, _) => return self.value(byte, rest),
            (Place::Comma, b',') => Place::Key,
            (Place::Comma | Place::Key, b'}') => match self.level {
                Level::Message => Place::After,
                Level::Result | Level::Error => {
                    self.level = Level::Message;
                    Place::Comma
                }
            },
            (Place::Before, b'{') => {
                self.found |= found::STARTED;
                Place::Key
            }
            // A byte order mark, which some readers pass.
            (Place::Before, 0xef | 0xbb | 0xbf) => place,
            (Place::Before, b'[') => {
                self.found |= found::STARTED;
                Place::Broken
            }
            _ => Place::Broken,
        };
        after
    }

    /// The first byte of a value.
    #[inline(always)]
    fn value<'p>(&mut self, byte: u8, rest: &'p [u8]) -> &'p [u8] {
        match (byte, self.key) {
            (b't' | b'f' | b'n' | b'-' | b'0'..=b'9', _) => {
                self.token.begin();
                self.place = Place::Literal;
                return rest;
            }
            (b'"' | b'{' | b'[', key) => self.note_present(key),
            _ => {
                self.place = Place::Broken;
                return rest;
            }
        }
        let after = &rest[1..];
        self.depth = 1;
        self.place = match (byte, self.key) {
            (b'{', Key::Result) => {
                self.level = Level::Result;
                Place::Key
            }
            (b'{', Key::Error) => {
                self.level = Level::Error;
                Place::Key
            }
            (b'[', Key::List) => {
                self.found |= found::LIST;
                return self.skip(after);
            }
            (b'"', Key::Method | Key::ResultType) => return self.begin(Text::Value, after),
            (b'"', _) => {
                self.depth = 0;
                return self.skip_text(after);
            }
            _ => return self.skip(after),
        };
        after
    }

    /// Notes a member whose value is not null.
    fn note_present(&mut self, key: Key) {
        self.found |= match key {
            Key::Result => found::RESULT,
            Key::Error => found::ERROR,
            Key::Method => found::METHOD,
            Key::Content => found::CONTENT,
            _ => 0,
        };
    }

    /// Begins a string that is read. Nearly always it is here as a whole and has no escape, and
    /// nothing is copied.
    #[inline(always)]
    fn begin<'p>(&mut self, text: Text, rest: &'p [u8]) -> &'p [u8] {
        if let Some(end) = text_end(rest)
            && rest[end] == b'"'
        {
            let (inner, after) = (&rest[..end], &rest[end + 1..]);
            match text {
                Text::Key => self.key_is(Key::of(self.level, inner)),
                Text::Value => self.text_is(inner),
            }
            // Few write a space here.
            if let (Text::Key, [b':', value @ ..]) = (text, after) {
                self.place = Place::Value;
                return value;
            }
            return after;
        }
        self.token.begin();
        self.place = Place::Read(text);
        rest
    }

    fn read<'p>(&mut self, text: Text, rest: &'p [u8]) -> &'p [u8] {
        let Some(end) = text_end(rest) else {
            self.token.add(rest);
            return &[];
        };
        self.token.add(&rest[..end]);
        match (rest[end], text) {
            (b'\\', _) => self.place = Place::Escape(text),
            (_, Text::Key) => self.key_is(Key::of(self.level, self.token.as_bytes())),
            (_, Text::Value) => {
                let token = std::mem::take(&mut self.token);
                self.text_is(token.as_bytes());
            }
        }
        &rest[end + 1..]
    }

    fn escape<'p>(&mut self, text: Text, rest: &'p [u8]) -> &'p [u8] {
        let meant = match rest[0] {
            b'u' => {
                self.place = Place::Hex(text, 4, 0);
                return &rest[1..];
            }
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            byte => byte,
        };
        self.token.add(&[meant]);
        self.place = Place::Read(text);
        &rest[1..]
    }

    fn hex<'p>(&mut self, text: Text, left: u8, unit: u16, rest: &'p [u8]) -> &'p [u8] {
        let Some(digit) = char::from(rest[0]).to_digit(16) else {
            self.place = Place::Broken;
            return rest;
        };
        let unit = unit << 4 | digit as u16;
        self.place = match left {
            1 => {
                // No name that is known has a character beyond ASCII, and none has this byte.
                self.token.add(&[u8::try_from(unit).ok().filter(u8::is_ascii).unwrap_or(0xff)]);
                Place::Read(text)
            }
            _ => Place::Hex(text, left - 1, unit),
        };
        &rest[1..]
    }

    fn key_is(&mut self, key: Key) {
        self.key = key;
        self.place = Place::Colon;
    }

    fn text_is(&mut self, text: &[u8]) {
        match self.key {
            Key::Method => self.changed = Listed::changed_by(text),
            Key::ResultType if text == b"input_required" => self.found |= found::INPUT_REQUIRED,
            _ => {}
        }
        self.place = Place::Comma;
    }

    fn literal<'p>(&mut self, rest: &'p [u8]) -> &'p [u8] {
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
        let Some(end) = rest.iter().position(ends) else {
            self.token.add(rest);
            return &[];
        };
        let text = match self.token.is_empty() {
            // It is here as a whole.
            true => &rest[..end],
            false => {
                self.token.add(&rest[..end]);
                self.token.as_bytes()
            }
        };
        match self.key {
            Key::IsError if text == b"true" => self.found |= found::IS_ERROR,
            Key::Code => {
                let code = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                self.code = self.code.or(code);
            }
            // `"result": null` is an answer all the same; `"error": null` and `"method": null` are
            // none to any reader.
            Key::Result => self.found |= found::RESULT,
            key if text != b"null" => self.note_present(key),
            _ => {}
        }
        self.place = Place::Comma;
        &rest[end..]
    }

    /// Passes a container by.
    fn skip<'p>(&mut self, rest: &'p [u8]) -> &'p [u8] {
        self.place = Place::Skip;
        let (mut at, mut depth) = (0, self.depth);
        loop {
            at = bracket_or_quote(rest, at);
            let Some(byte) = rest.get(at) else { break };
            at += 1;
            match byte {
                b'"' => match pass_text(rest, at) {
                    Ok(after) => at = after,
                    Err(cut) => {
                        self.place = cut.into();
                        break;
                    }
                },
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.place = Place::Comma;
                        return &rest[at..];
                    }
                }
                _ => {}
            }
        }
        self.depth = depth;
        &[]
    }

    /// Passes the rest of a string by.
    fn skip_text<'p>(&mut self, rest: &'p [u8]) -> &'p [u8] {
        match pass_text(rest, 0) {
            Ok(after) => {
                self.place = if self.depth == 0 { Place::Comma } else { Place::Skip };
                &rest[after..]
            }
            Err(cut) => {
                self.place = cut.into();
                &[]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lists, MessageScan, Verdict};
    use proptest::prelude::{
        Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };

    fn scan(parts: &[&[u8]]) -> MessageScan {
        let mut scan = MessageScan::default();
        for part in parts {
            scan.feed(part);
        }
        scan
    }

    /// However it is cut, it says the same.
    fn check(message: &str, expected: Verdict) {
        let bytes = message.as_bytes();
        assert_eq!(scan(&[bytes]).verdict(), expected, "{message}");
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(scan(&[first, second]).verdict(), expected, "{message} cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(scan(&single).verdict(), expected, "{message} byte by byte");
    }

    #[test]
    fn answers_are_judged_wherever_their_members_stand() {
        for (message, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Verdict::Ok),
            (r#"{"result":{"content":[],"isError":false},"jsonrpc":"2.0","id":1}"#, Verdict::Ok),
            (r#" { "result" : { "isError" : true } } "#, Verdict::ToolError),
            ("{\"result\":{\"isError\":true\n},\r\n\t\"id\":1}", Verdict::ToolError),
            (
                r#"{"id":1,"result":{"content":[{"text":"}]\"{[\\"}],"isError":true}}"#,
                Verdict::ToolError,
            ),
            (r#"{"result":{"isError":true},"result":{"isError":false}}"#, Verdict::ToolError),
            (r#"{"result":{"isError":true,"isError":false}}"#, Verdict::ToolError),
            (r#"{"result":{"isErr\u006Fr":true}}"#, Verdict::ToolError),
            (r#"{"\u0072\u0065\u0073\u0075\u006c\u0074":{"isError":true}}"#, Verdict::ToolError),
            (r#"{"result":{"isError":"true"}}"#, Verdict::Ok),
            (r#"{"result":{"isError":truer}}"#, Verdict::Ok),
            // Only the members of the result itself count.
            (r#"{"result":{"structuredContent":{"isError":true}}}"#, Verdict::Ok),
            (r#"{"result":[{"isError":true}]}"#, Verdict::Ok),
            (r#"{"isError":true,"result":{}}"#, Verdict::Ok),
            (r#"{"error":null,"result":{}}"#, Verdict::Ok),
            (r#"{"method":null,"result":null}"#, Verdict::Ok),
            (r#"{"result":{"resultType":"input_required"}}"#, Verdict::InputRequired),
            (r#"{"result":{"resultType":"input\u005frequired"}}"#, Verdict::InputRequired),
            (r#"{"result":{"resultType":"complete"}}"#, Verdict::Ok),
            (r#"{"error":{"code":-32601,"message":"no"},"id":1}"#, Verdict::Error(Some(-32601))),
            (r#"{"error":{"message":"\"code\":1","code":12 }}"#, Verdict::Error(Some(12))),
            (r#"{"error":{"data":{"code":1}}}"#, Verdict::Error(None)),
            (r#"{"error":{"code":1.5}}"#, Verdict::Error(None)),
            (r#"{"error":{"code":99999999999}}"#, Verdict::Error(None)),
            (r#"{"error":"no"}"#, Verdict::Error(None)),
            (r#"{"error":true,"result":{}}"#, Verdict::Error(None)),
            (r#"{"method":"ping","id":1}"#, Verdict::None),
            (r#"{"result":{},"id":1,"method":"ping"}"#, Verdict::None),
            (r#"{"id":1}"#, Verdict::None),
            ("{}", Verdict::None),
            ("", Verdict::None),
            (" \n", Verdict::None),
            ("\u{feff}{\"result\":{}}", Verdict::Ok),
        ] {
            check(message, expected);
        }
        let long = "k".repeat(300);
        check(
            &format!(r#"{{"{long}":"{long}","n":{},"result":{{}}}}"#, "1".repeat(300)),
            Verdict::Ok,
        );
    }

    #[test]
    fn what_cannot_be_read_is_unclear() {
        for message in [
            "not found",
            "<html>",
            "[]",
            r#"[{"result":{}}]"#,
            r#""result""#,
            "1",
            r#"{"result":{}"#,
            r#"{"result":{"a":["#,
            r#"{"result":{}}}"#,
            r#"{"result":{}} {}"#,
            r#"{"result" {}}"#,
            r#"{"result":{}:1}"#,
            r#"{"result":}"#,
            r#"{"result":]}"#,
            r#"{result:1}"#,
            r#"{"resul\uzzzz":1}"#,
            r#"{"result":{},"a":NaN}"#,
        ] {
            check(message, Verdict::Unclear);
        }
        // No depth is too deep.
        let deep = format!(
            r#"{{"result":{{"a":{},"isError":true}}}}"#,
            "[".repeat(1 << 20) + &"]".repeat(1 << 20)
        );
        assert_eq!(scan(&[deep.as_bytes()]).verdict(), Verdict::ToolError);
    }

    #[test]
    fn lists_are_told_from_everything_else_as_early_as_can_be() {
        for (start, expected) in [
            ("", Lists::Open),
            (r#"{"jsonrpc":"2.0","id":1"#, Lists::Open),
            (r#"{"id":1,"result":{"ttlMs":1,"_meta":{"tools":[]}"#, Lists::Open),
            (r#"{"id":1,"result":{"tools":{}"#, Lists::Open),
            (r#"{"id":1,"result":{"tools":["#, Lists::Yes),
            (r#"{"id":1,"result":{"resourceTemplates":[]},"method":"x"}"#, Lists::Yes),
            (r#"{"id":1,"result":{"pr\u006fmpts":["#, Lists::Yes),
            (r#"{"method":""#, Lists::No),
            (r#"{"method":"x","result":{"resources":["#, Lists::Yes),
            (r#"{"id":1,"result":{"content":["#, Lists::No),
            (r#"{"id":1,"result":{}"#, Lists::No),
            (r#"{"id":1,"error":{"#, Lists::No),
            (r#"{"id":1}"#, Lists::No),
            ("ping", Lists::No),
            // Who knows what a reader makes of these.
            ("[", Lists::Yes),
            (r#"{"id":1,,"#, Lists::Yes),
        ] {
            assert_eq!(scan(&[start.as_bytes()]).lists(), expected, "{start}");
        }
    }

    /// JSON as it is written, with doubled keys and every way to write a string.
    #[derive(Clone, Debug)]
    enum Node {
        Literal(&'static str),
        Text(String),
        Array(Vec<Self>),
        Object(Vec<(String, Self)>),
    }

    fn node() -> impl Strategy<Value = Node> {
        let key = prop_oneof![
            6 => prop::sample::select(&[
                "result", "error", "method", "isError", "resultType", "code", "tools", "content",
            ][..])
            .prop_map(str::to_owned),
            1 => any::<String>(),
        ];
        let literals = &["true", "false", "null", "0", "-32601", "1.5", "1e3", "12345678901"][..];
        let leaf = prop_oneof![
            3 => prop::sample::select(literals).prop_map(Node::Literal),
            1 => Just(Node::Text("input_required".to_owned())),
            1 => any::<String>().prop_map(Node::Text),
            1 => r#"[\]\[{}":,\\ ]{0,60}"#.prop_map(Node::Text),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            let members = prop::collection::vec((key.clone(), inner.clone()), 0..6);
            prop_oneof![
                1 => prop::collection::vec(inner, 0..5).prop_map(Node::Array),
                4 => members.prop_map(Node::Object),
            ]
        })
    }

    fn write(node: &Node, style: &mut impl Iterator<Item = u8>, out: &mut String) {
        let space = ["", "", "", " ", "\n", "\t \r\n"];
        let mut pad =
            |out: &mut String| out.push_str(space[usize::from(style.next().unwrap_or(0)) % 6]);
        pad(out);
        match node {
            Node::Literal(literal) => out.push_str(literal),
            Node::Text(text) => write_text(text, style, out),
            Node::Array(nodes) => {
                out.push('[');
                for (nth, node) in nodes.iter().enumerate() {
                    out.push_str(if nth > 0 { "," } else { "" });
                    write(node, style, out);
                }
                out.push(']');
            }
            Node::Object(members) => {
                out.push('{');
                for (nth, (key, node)) in members.iter().enumerate() {
                    out.push_str(if nth > 0 { ", " } else { " " });
                    write_text(key, style, out);
                    out.push_str(" :");
                    write(node, style, out);
                }
                out.push('}');
            }
        }
        out.push(' ');
    }

    fn write_text(text: &str, style: &mut impl Iterator<Item = u8>, out: &mut String) {
        if !style.next().unwrap_or(0).is_multiple_of(3) {
            out.push_str(&serde_json::to_string(text).expect("a string"));
            return;
        }
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        out.push_str(&format!("\"{units}\""));
    }

    /// What the tree says.
    fn judge(node: &Node) -> Verdict {
        let Node::Object(members) = node else { return Verdict::Unclear };
        let all = |name: &'static str| members.iter().filter(move |(key, _)| key == name);
        let is_null = |node: &Node| matches!(node, Node::Literal("null"));
        let inner = |name: &'static str, member: &'static str| {
            let objects = all(name).filter_map(|(_, node)| match node {
                Node::Object(members) => Some(members),
                _ => None,
            });
            objects.flatten().filter(move |(key, _)| key == member)
        };
        if all("method").any(|(_, node)| !is_null(node)) {
            return Verdict::None;
        }
        if all("error").any(|(_, node)| !is_null(node)) {
            let mut codes = inner("error", "code").filter_map(|(_, node)| match node {
                Node::Literal(literal) => literal.parse().ok(),
                _ => None,
            });
            return Verdict::Error(codes.next());
        }
        let says = |member, wanted: &dyn Fn(&Node) -> bool| {
            inner("result", member).any(|(_, node)| wanted(node))
        };
        if says("isError", &|node| matches!(node, Node::Literal("true"))) {
            return Verdict::ToolError;
        }
        if says("resultType", &|node| matches!(node, Node::Text(text) if text == "input_required"))
        {
            return Verdict::InputRequired;
        }
        match all("result").next() {
            Some(_) => Verdict::Ok,
            None => Verdict::None,
        }
    }

    fn in_parts(text: &[u8], cuts: &[prop::sample::Index]) -> MessageScan {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut from = 0;
        let mut scan = MessageScan::default();
        for cut in cuts {
            scan.feed(&text[from..cut]);
            from = cut;
        }
        scan
    }

    proptest! {
        #[test]
        fn every_message_is_judged_as_its_tree(
            members in prop::collection::vec(
                (prop::sample::select(&["result", "error", "method", "id"][..]), node()), 0..5),
            style in prop::collection::vec(any::<u8>(), 1..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let members = members.into_iter().map(|(key, node)| (key.to_owned(), node)).collect();
            let root = Node::Object(members);
            let mut text = String::new();
            write(&root, &mut style.iter().copied().cycle(), &mut text);
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{text}");
            prop_assert_eq!(in_parts(text.as_bytes(), &cuts).verdict(), judge(&root), "{}", text);
        }

        #[test]
        fn bytes_without_a_meaning_do_no_harm_and_mean_the_same_in_parts(
            text in prop_oneof![
                r#"[{}\[\]":,\\a1etu \n]{0,80}"#,
                r#"\{"(result|error|method)":[{}\[\]":,\\a1 ]{0,40}"#,
            ],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let (whole, parts) = (in_parts(text.as_bytes(), &[]), in_parts(text.as_bytes(), &cuts));
            prop_assert_eq!(whole.verdict(), parts.verdict());
            prop_assert_eq!(whole.lists(), parts.lists());
            if whole.verdict().is_success() {
                // Faults deep inside pass; none at the levels that are read does.
                prop_assert!(text.trim_start().starts_with('{') && text.contains("res"), "{}", text);
            }
        }
    }
}
