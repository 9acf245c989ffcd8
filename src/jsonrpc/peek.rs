//! Reads from a body what routing and policy need, in one pass that validates all of it.
//!
//! This is a security boundary: what is read here must be what the server reads. So whatever
//! parsers are known to read differently is refused at the levels that are read (the message,
//! `params`, `params._meta`, `params.ref`), and the rest must at least be JSON.

use super::envelope::{Claim, Envelope, Kind, Params, Reference};
use super::fault::{Fault, FaultClass};
use super::fold::{Match, find};
use super::id::Id;
use super::scan::{Broken, Next, Scanner, Shape, Value};
use super::text::{Text, Unescape, decode};
use std::borrow::Cow;

/// Reads a body, or says why no two parsers are sure to read it alike.
///
/// Nothing is allocated unless a string that is read has an escape.
pub fn peek(body: &[u8]) -> Result<Envelope<'_>, Fault<'_>> {
    match simdutf8::basic::from_utf8(body) {
        Ok(text) => Pass::new(text).run(),
        Err(_) => Err(invalid_utf8(body)),
    }
}

/// Reads the valid part for an earlier fault and for the id of the answer.
#[cold]
fn invalid_utf8(body: &[u8]) -> Fault<'_> {
    let (valid, offset) = match std::str::from_utf8(body) {
        Ok(text) => (text, body.len()),
        Err(error) => {
            let valid = body.get(..error.valid_up_to()).unwrap_or_default();
            (std::str::from_utf8(valid).unwrap_or_default(), error.valid_up_to())
        }
    };
    match Pass::new(valid).run() {
        Err(fault) if fault.class.ends_the_scan() && fault.class != FaultClass::Truncated => fault,
        Err(fault) => Fault { class: FaultClass::InvalidUtf8, offset, id: fault.id },
        Ok(envelope) => Fault { class: FaultClass::InvalidUtf8, offset, id: envelope.id() },
    }
}

/// The levels whose keys are read. Their keys are listed by how often they are met.
#[derive(Clone, Copy)]
enum Level {
    Message,
    Params,
    Meta,
    Reference,
}

/// Every key that is read, or whose doubling would make parsers disagree on what runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Arguments,
    Meta,
    Uri,
    TaskId,
    Ref,
    ProtocolVersion,
    RequestId,
    Cursor,
    InputResponses,
    RequestState,
    ProgressToken,
    ClaimedVersion,
    ClientCapabilities,
    ClientInfo,
    LogLevel,
    RefType,
    RefName,
    RefUri,
}

/// Lists the keys of each level once, for the fast way to find one and for the careful one.
macro_rules! levels {
    ($($level:ident { $($name:literal $key:ident,)* })*) => {
        impl Level {
            /// The key that is written exactly so; a `match` on literals compiles to a few word-sized comparisons.
            #[inline(always)]
            fn plain_key(self, name: &[u8]) -> Option<Key> {
                match self {
                    $(Self::$level => $(if name == $name.as_bytes() { Some(Key::$key) } else)* { None },)*
                }
            }

            fn keys(self) -> &'static [(&'static str, Key)] {
                match self {
                    $(Self::$level => &[$(($name, Key::$key)),*],)*
                }
            }
        }
    };
}

levels! {
    Message {
        "jsonrpc" Jsonrpc,
        "id" Id,
        "method" Method,
        "params" Params,
        "result" Result,
        "error" Error,
    }
    Params {
        "name" Name,
        "arguments" Arguments,
        "_meta" Meta,
        "uri" Uri,
        "taskId" TaskId,
        "ref" Ref,
        "protocolVersion" ProtocolVersion,
        "requestId" RequestId,
        "cursor" Cursor,
        "inputResponses" InputResponses,
        "requestState" RequestState,
    }
    Meta {
        "progressToken" ProgressToken,
        "io.modelcontextprotocol/protocolVersion" ClaimedVersion,
        "io.modelcontextprotocol/clientCapabilities" ClientCapabilities,
        "io.modelcontextprotocol/clientInfo" ClientInfo,
        "io.modelcontextprotocol/logLevel" LogLevel,
    }
    Reference {
        "type" RefType,
        "name" RefName,
        "uri" RefUri,
    }
}

impl Level {
    /// How many containers stand around a value at this level.
    fn depth(self) -> usize {
        match self {
            Self::Message => 1,
            Self::Params => 2,
            Self::Meta | Self::Reference => 3,
        }
    }
}

/// What the id is, so far.
#[derive(Clone, Copy)]
enum IdSeen<'a> {
    Nothing,
    Null {
        offset: usize,
    },
    One(Id<'a>),
    /// Twice, or once and once disguised: no answer may carry either.
    Ambiguous,
}

/// One walk over a body. Faults that leave the grammar intact are kept until its end.
struct Pass<'a> {
    text: &'a str,
    scanner: Scanner<'a>,
    seen: u32,
    fault: Option<Broken>,
    id: IdSeen<'a>,
    method: Option<Text<'a>>,
    params: Params<'a>,
}

impl<'a> Pass<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            scanner: Scanner::new(text),
            seen: 0,
            fault: None,
            id: IdSeen::Nothing,
            method: None,
            params: Params::default(),
        }
    }

    /// Inlined so that what was read is moved once, into the caller's result.
    #[inline(always)]
    fn run(mut self) -> Result<Envelope<'a>, Fault<'a>> {
        match self.verdict() {
            Ok(kind) => Ok(Envelope { kind, params: self.params }),
            Err(Broken { class, offset }) => Err(Fault { class, offset, id: self.known_id() }),
        }
    }

    fn verdict(&mut self) -> Result<Kind<'a>, Broken> {
        let start = self.walk()?;
        match self.fault {
            Some(fault) => Err(fault),
            None => self
                .kind()
                .map_err(|(class, offset)| Broken { class, offset: offset.unwrap_or(start) }),
        }
    }

    /// Walks the whole body and says where the message starts.
    fn walk(&mut self) -> Result<usize, Broken> {
        if self.text.starts_with('\u{feff}') {
            return Err(Broken { class: FaultClass::ByteOrderMark, offset: 0 });
        }
        let first = self.scanner.upcoming();
        let start = self.scanner.offset();
        if first == Some(b'{') {
            self.object(Level::Message)?;
        } else {
            let is_batch = self.scanner.value(0)?.shape == Shape::Array;
            self.refuse(if is_batch { FaultClass::Batch } else { FaultClass::NotAnObject }, start);
        }
        self.scanner.end()?;
        Ok(start)
    }

    fn object(&mut self, level: Level) -> Result<(), Broken> {
        let mut next = self.scanner.open_object();
        while next == Next::Member {
            let literal = self.scanner.key()?;
            match self.watched(level, literal) {
                Some(key) => self.member(level, key)?,
                None => _ = self.scanner.value(level.depth())?,
            }
            next = self.scanner.close_member()?;
        }
        Ok(())
    }

    /// Which key this is, if its value is to be read.
    #[inline(always)]
    fn watched(&mut self, level: Level, literal: Value) -> Option<Key> {
        let name = self.text.as_bytes().get(literal.start + 1..literal.end - 1)?;
        match level.plain_key(name) {
            Some(key) => self.first_of(key, literal),
            None => self.watched_in_disguise(level, literal),
        }
    }

    #[inline(always)]
    fn first_of(&mut self, key: Key, literal: Value) -> Option<Key> {
        let bit = 1 << key as u32;
        if self.seen & bit != 0 {
            self.refuse_key(FaultClass::DuplicateKey, literal, key);
            return None;
        }
        self.seen |= bit;
        Some(key)
    }

    #[inline(never)]
    fn watched_in_disguise(&mut self, level: Level, literal: Value) -> Option<Key> {
        match find(self.between_quotes(literal), level.keys()) {
            Match::Exact(key) => return self.first_of(key, literal),
            Match::Variant(key) => self.refuse_key(FaultClass::KeyVariant, literal, key),
            Match::NotText => self.refuse(FaultClass::LoneSurrogate, literal.start),
            Match::Unrelated => {}
        }
        None
    }

    #[cold]
    fn refuse_key(&mut self, class: FaultClass, literal: Value, key: Key) {
        if key == Key::Id {
            self.id = IdSeen::Ambiguous;
        }
        self.refuse(class, literal.start);
    }

    /// Reads the value of a watched key.
    fn member(&mut self, level: Level, key: Key) -> Result<(), Broken> {
        let nested = match key {
            Key::Params => Some(Level::Params),
            Key::Meta => Some(Level::Meta),
            Key::Ref => Some(Level::Reference),
            _ => None,
        };
        if let (Some(nested), Some(b'{')) = (nested, self.scanner.upcoming()) {
            if key == Key::Ref {
                self.params.reference = Some(Reference::default());
            }
            return self.object(nested);
        }
        let value = self.scanner.value(level.depth())?;
        match key {
            Key::Jsonrpc => {
                let is_right =
                    self.between_quotes(value) == "2.0" && value.shape == Shape::PlainString;
                if !is_right
                    && self
                        .string(value, FaultClass::BadVersion)
                        .is_some_and(|version| version != "2.0")
                {
                    self.refuse(FaultClass::BadVersion, value.start);
                }
            }
            Key::Id => self.message_id(value),
            Key::Method => self.method = self.string(value, FaultClass::BadMethod),
            Key::Params => self.refuse(FaultClass::BadParams, value.start),
            Key::Result | Key::Error if value.shape != Shape::Object => {
                self.refuse(FaultClass::BadShape, value.start);
            }
            Key::Meta | Key::Ref => self.refuse(FaultClass::BadParam, value.start),
            _ => self.parameter(key, value),
        }
        Ok(())
    }

    fn parameter(&mut self, key: Key, value: Value) {
        match key {
            Key::Name => self.params.name = self.string(value, FaultClass::BadParam),
            Key::Uri => self.params.uri = self.string(value, FaultClass::BadParam),
            Key::TaskId => self.params.task_id = self.string(value, FaultClass::BadParam),
            Key::ProtocolVersion => {
                self.params.protocol_version = self.string(value, FaultClass::BadParam)
            }
            Key::RequestId => self.params.request_id = self.token(value, FaultClass::BadParam),
            Key::ProgressToken => {
                self.params.meta.progress_token = self.token(value, FaultClass::BadParam)
            }
            Key::ClaimedVersion => {
                self.params.meta.protocol_version = self.string(value, FaultClass::BadParam)
            }
            Key::ClientCapabilities => self.params.meta.client_capabilities = claim(value),
            Key::ClientInfo => self.params.meta.client_info = claim(value),
            Key::LogLevel => self.params.meta.log_level = claim(value),
            Key::RefType | Key::RefName | Key::RefUri => {
                let text = self.string(value, FaultClass::BadParam);
                let reference = self.params.reference.get_or_insert_default();
                match key {
                    Key::RefType => reference.kind = text,
                    Key::RefName => reference.name = text,
                    _ => reference.uri = text,
                }
            }
            // The others are only watched for doubling; their values are the server's business.
            _ => {}
        }
    }

    fn message_id(&mut self, value: Value) {
        if value.shape == Shape::Null {
            self.id = IdSeen::Null { offset: value.start };
        } else if let Some(id) = self.token(value, FaultClass::BadId) {
            // A disguised id may have come first.
            if let IdSeen::Nothing = self.id {
                self.id = IdSeen::One(id);
            }
        }
    }

    /// A string or an integer, as it stands.
    fn token(&mut self, value: Value, otherwise: FaultClass) -> Option<Id<'a>> {
        let class = match value.shape {
            Shape::Integer | Shape::PlainString => None,
            Shape::EscapedString => {
                let is_text =
                    Unescape::new(self.between_quotes(value)).all(|character| character.is_ok());
                (!is_text).then_some(FaultClass::LoneSurrogate)
            }
            _ => Some(otherwise),
        };
        if let Some(class) = class {
            self.refuse(class, value.start);
            return None;
        }
        self.text.get(value.start..value.end).map(Id::checked)
    }

    fn string(&mut self, value: Value, otherwise: FaultClass) -> Option<Text<'a>> {
        let inner = self.between_quotes(value);
        let decoded = match value.shape {
            Shape::PlainString => Ok(Cow::Borrowed(inner)),
            Shape::EscapedString => {
                decode(inner).map(Cow::Owned).map_err(|_| FaultClass::LoneSurrogate)
            }
            _ => Err(otherwise),
        };
        match decoded {
            Ok(decoded) => Some(Text::new(decoded, value.start..value.end)),
            Err(class) => {
                self.refuse(class, value.start);
                None
            }
        }
    }

    fn between_quotes(&self, literal: Value) -> &'a str {
        self.text.get(literal.start + 1..literal.end - 1).unwrap_or_default()
    }

    /// What the message is, by the keys it has.
    fn kind(&mut self) -> Result<Kind<'a>, (FaultClass, Option<usize>)> {
        let has = |key: Key| self.seen & (1 << key as u32) != 0;
        if !has(Key::Jsonrpc) {
            return Err((FaultClass::BadVersion, None));
        }
        let (answers, is_error) = (has(Key::Result) || has(Key::Error), has(Key::Error));
        let is_both = is_error && has(Key::Result);
        match (self.method.take(), self.id) {
            (Some(method), IdSeen::One(id)) if !answers => Ok(Kind::Request { id, method }),
            (Some(method), IdSeen::Nothing) if !answers => Ok(Kind::Notification { method }),
            (Some(_), IdSeen::Null { offset }) if !answers => {
                Err((FaultClass::BadId, Some(offset)))
            }
            (None, IdSeen::One(id)) if answers && !is_both => Ok(Kind::Response { id: Some(id) }),
            (None, IdSeen::Nothing | IdSeen::Null { .. }) if is_error && !is_both => {
                Ok(Kind::Response { id: None })
            }
            (None, IdSeen::Null { offset }) if answers && !is_both => {
                Err((FaultClass::BadId, Some(offset)))
            }
            (None, IdSeen::Nothing) if answers && !is_both => Err((FaultClass::BadId, None)),
            _ => Err((FaultClass::BadShape, None)),
        }
    }

    fn known_id(&self) -> Option<Id<'a>> {
        match self.id {
            IdSeen::One(id) => Some(id),
            _ => None,
        }
    }

    /// Keeps the first fault; the scan goes on for the id and for faults of grammar.
    #[cold]
    fn refuse(&mut self, class: FaultClass, offset: usize) {
        self.fault.get_or_insert(Broken { class, offset });
    }
}

fn claim(value: Value) -> Claim {
    if value.shape == Shape::Object { Claim::Object } else { Claim::NotObject }
}

#[cfg(test)]
mod tests {
    use super::{FaultClass, Kind, peek};
    use FaultClass::{
        BadId, BadMethod, BadNumber, BadParam, BadParams, BadShape, BadString, BadVersion, Batch,
        ByteOrderMark, DuplicateKey, InvalidUtf8, KeyVariant, LoneSurrogate, NotAnObject, Syntax,
        TooDeep, TrailingBytes, Truncated,
    };

    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"#;

    #[track_caller]
    fn check_bytes(body: &[u8], class: FaultClass, offset: usize, id: Option<&str>) {
        let fault = peek(body).unwrap_err();
        let found = (fault.class, fault.offset, fault.id.map(|id| id.raw()));
        assert_eq!(found, (class, offset, id), "{}", body.escape_ascii());
    }

    /// Checks a body in which `^` marks the fault, and is not sent.
    #[track_caller]
    fn check(marked: &str, class: FaultClass, id: Option<&str>) {
        let (before, after) = marked.split_once('^').unwrap();
        check_bytes([before, after].concat().as_bytes(), class, before.len(), id);
    }

    /// Checks a `tools/call` with these params.
    #[track_caller]
    fn check_params(marked: &str, class: FaultClass) {
        check(&format!("{CALL}{marked}}}"), class, Some("1"));
    }

    #[test]
    fn hostile_bodies_are_refused() {
        check_params(r#"{"name":"safe",^"name":"evil"}"#, DuplicateKey);
        check_params(r#"{"name":"safe",^"na\u006de":"evil"}"#, DuplicateKey);
        check_params(r#"{"na\u006de":"safe",^"name":"evil"}"#, DuplicateKey);
        check_params(r#"{"name":"safe"},^"params":{"name":"evil"}"#, DuplicateKey);
        check_params(r#"{},^"method":"tools/list""#, DuplicateKey);
        check_params(r#"{"name":"a","arguments":{},^"arguments":{}}"#, DuplicateKey);
        check_params(r#"{"_meta":{"progressToken":1,^"progressToken":2}}"#, DuplicateKey);
        check_params(r#"{"_meta":{},^"_meta":{}}"#, DuplicateKey);
        check_params(r#"{"ref":{"name":"a",^"name":"b"}}"#, DuplicateKey);
        check_params(r#"{"name":"safe",^"Name":"evil"}"#, KeyVariant);
        check_params(r#"{^"NAME":"evil"}"#, KeyVariant);
        check_params(r#"{"name":"safe",^"name\u0000":"evil"}"#, KeyVariant);
        check_params(r#"{"name":"safe",^"name\u0000x":"evil"}"#, KeyVariant);
        check_params("{^\"argument\u{17f}\":{}}", KeyVariant);
        check_params("{^\"tas\u{212a}Id\":\"a\"}", KeyVariant);
        check_params(r#"{^"argument\u017f":{}}"#, KeyVariant);
        check_params(r#"{"_meta":{^"progresstoken":1}}"#, KeyVariant);
        check_params(r#"{},^"Method":"tools/list""#, KeyVariant);
        check_params(r#"{"name":^"a\ud800"}"#, LoneSurrogate);
        check_params(r#"{^"nam\udc00":1}"#, LoneSurrogate);
        check_params(r#"^["tools/call",{}]"#, BadParams);
        check_params(r#"{"arguments":{"a":^NaN}}"#, Syntax);
        check_params(r#"{"arguments":{"a":0^1}}"#, BadNumber);
        check_params(r#"{"arguments":{"a":1,^}}"#, Syntax);
        check_params(r#"{"arguments":^/**/{}}"#, Syntax);
        check_params(r#"{"arguments":"a^	b"}"#, BadString);
        check_params(r#"{}}^"#, TrailingBytes);
    }

    #[test]
    fn bodies_that_are_no_message_are_refused() {
        check("^", Truncated, None);
        check("{\"jsonrpc\":\"2.0\",\"id\":5^", Truncated, Some("5"));
        check(" ^[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", Batch, None);
        check(r#"^["tools/call",1,{"name":"a"}]"#, Batch, None);
        check("^[]", Batch, None);
        check("[1^", Truncated, None);
        check("^\"text\"", NotAnObject, None);
        check("^null", NotAnObject, None);
        check(r#"{"id":1} ^x"#, TrailingBytes, Some("1"));
        check("^\u{feff}{}", ByteOrderMark, None);
        check_bytes(b"{\"id\":1,\"a\":\"\xff\"}", InvalidUtf8, 13, Some("1"));
        check_bytes(
            b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"id\":1}\xc3",
            InvalidUtf8,
            37,
            Some("1"),
        );
        check_bytes(b"{\"id\":1,} \xff", Syntax, 8, Some("1"));
        check_bytes(b"{\"id\":1,\"a\":\"\xed\xa0\x80\"}", InvalidUtf8, 13, Some("1"));
        let nested = |levels: usize| format!("{CALL}{{\"a\":{}", "[".repeat(levels));
        check_bytes(nested(1_000_000).as_bytes(), TooDeep, nested(125).len(), Some("1"));
        check_bytes(nested(126).as_bytes(), TooDeep, nested(125).len(), Some("1"));
        check_bytes(nested(125).as_bytes(), Truncated, nested(125).len(), Some("1"));
    }

    #[test]
    fn envelopes_must_have_their_shape() {
        check(r#"^{"id":1,"method":"a"}"#, BadVersion, Some("1"));
        check(r#"{"jsonrpc":^"1.0","id":1,"method":"a"}"#, BadVersion, Some("1"));
        check(r#"{"jsonrpc":^2.0,"method":"a","id":1}"#, BadVersion, Some("1"));
        check(r#" ^{"jsonrpc":"2.0"}"#, BadShape, None);
        check(r#"^{"jsonrpc":"2.0","id":1}"#, BadShape, Some("1"));
        check(r#"^{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, BadShape, Some("1"));
        check(r#"^{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, BadShape, Some("1"));
        check(r#"{"jsonrpc":"2.0","id":1,"result":^null}"#, BadShape, Some("1"));
        check(r#"^{"jsonrpc":"2.0","result":{}}"#, BadId, None);
        check(r#"{"jsonrpc":"2.0","id":^null,"result":{}}"#, BadId, None);
        check(r#"{"jsonrpc":"2.0","id":1,"method":^7}"#, BadMethod, Some("1"));
        check(r#"{"jsonrpc":"2.0","id":1,"method":^"a\ud800"}"#, LoneSurrogate, Some("1"));
        for params in ["null", "7", r#""a""#, "[]"] {
            check_params(&format!("^{params}"), BadParams);
        }
        for id in ["null", "1.0", "1e3", "true", "{}", "[1]"] {
            check(&format!(r#"{{"jsonrpc":"2.0","id":^{id},"method":"a"}}"#), BadId, None);
        }
        check(r#"{"jsonrpc":"2.0","id":^"\ud800","method":"a"}"#, LoneSurrogate, None);
    }

    #[test]
    fn parameters_must_have_their_type() {
        for key in ["name", "uri", "taskId", "protocolVersion"] {
            for wrong in ["7", "null", "{}", r#"["a"]"#] {
                check_params(&format!(r#"{{"{key}":^{wrong}}}"#), BadParam);
            }
        }
        for wrong in [
            r#"{"ref":^"main"}"#,
            r#"{"ref":{"name":^1}}"#,
            r#"{"_meta":^null}"#,
            r#"{"_meta":{"progressToken":^1.5}}"#,
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":^20260728}}"#,
            r#"{"requestId":^null}"#,
        ] {
            check_params(wrong, BadParam);
        }
    }

    #[test]
    fn an_ambiguous_id_is_never_answered() {
        check(r#"{"jsonrpc":"2.0","id":1,"method":"a",^"id":2}"#, DuplicateKey, None);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"a",^"ID":2}"#, KeyVariant, None);
        check(r#"{"jsonrpc":"2.0",^"Id":1,"method":"a","id":2}"#, KeyVariant, None);
        // The first fault is told, the id is found after it, and a fault of grammar outweighs both.
        check(
            r#"{"method":^1,"params":[],"jsonrpc":"2.0","id":"last"}"#,
            BadMethod,
            Some("\"last\""),
        );
        check(r#"{"method":1,"id":"last",^}"#, Syntax, Some("\"last\""));
    }

    #[test]
    fn what_is_read_is_what_was_sent() {
        let body = r#" {"method":"tools\/call","params":{"_meta":{"progressToken":"p","x":{"name":1},
            "io.modelcontextprotocol\/protocolVersion":"2026-07-28","io.modelcontextprotocol/logLevel":"info",
            "io.modelcontextprotocol/clientCapabilities":{}},"na\u006de":"a\ud83e\udd80","uri":"file:///é","taskId":"t",
            "arguments":{"name":"x","Name":"y","s":"\ud800","n":1e999},"ref":{"type":"ref/prompt","name":"n","uri":"u"},
            "protocolVersion":"v","requestId":-3,"Names":1},"jsonrpc":"2.0","id":"1"} "#
            .as_bytes();
        let envelope = peek(body).unwrap();
        let (params, meta) = (&envelope.params, &envelope.params.meta);
        let reference = params.reference.as_ref().unwrap();
        for (text, expected, literal) in [
            (envelope.method(), "tools/call", r#""tools\/call""#),
            (params.name.as_ref(), "a\u{1f980}", r#""a\ud83e\udd80""#),
            (params.uri.as_ref(), "file:///\u{e9}", "\"file:///\u{e9}\""),
            (params.task_id.as_ref(), "t", "\"t\""),
            (params.protocol_version.as_ref(), "v", "\"v\""),
            (meta.protocol_version.as_ref(), "2026-07-28", "\"2026-07-28\""),
            (reference.kind.as_ref(), "ref/prompt", "\"ref/prompt\""),
            (reference.name.as_ref(), "n", "\"n\""),
            (reference.uri.as_ref(), "u", "\"u\""),
        ] {
            let text = text.unwrap();
            assert_eq!((text.as_str(), &body[text.span()]), (expected, literal.as_bytes()));
        }
        assert_eq!(envelope.id().unwrap().raw(), "\"1\"");
        assert_eq!(params.request_id.unwrap().raw(), "-3");
        assert_eq!(meta.progress_token.unwrap().raw(), "\"p\"");
        assert_eq!(
            (meta.client_capabilities, meta.client_info),
            (super::Claim::Object, super::Claim::Absent)
        );
        assert_eq!(meta.log_level, super::Claim::NotObject);
    }

    #[test]
    fn each_kind_of_message_is_told_from_the_others() {
        let kind = |body: &'static str| peek(body.as_bytes()).unwrap().kind;
        let id = |body| match kind(body) {
            Kind::Response { id } => id.map(|id| id.raw()),
            other => panic!("{other:?}"),
        };
        assert!(matches!(kind(r#"{"jsonrpc":"2.0","id":0,"method":""}"#), Kind::Request { .. }));
        assert!(matches!(
            kind(r#"{"jsonrpc":"2\u002e0","method":"a"}"#),
            Kind::Notification { .. }
        ));
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":3,"result":{}}"#), Some("3"));
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":"e","error":{}}"#), Some("\"e\""));
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":null,"error":{}}"#), None);
        assert_eq!(id(r#"{"jsonrpc":"2.0","error":{}}"#), None);
    }
}
