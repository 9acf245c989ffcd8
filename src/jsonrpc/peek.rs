//! Reads from a body what routing and policy need, in one pass that validates all of it.
//!
//! This is a security boundary: what is read here must be what the server reads. So whatever
//! parsers are known to read differently is refused at the levels that are read (the message,
//! `params`, `params._meta`, `params.ref`), and the rest must at least be JSON.

use super::envelope::{Claim, Envelope, Kind, Params, Reference};
use super::fault::{Fault, FaultClass};
use super::fold::{Match, find};
use super::id::Id;
use super::keys::{Key, Level};
use super::scan::{Broken, Next, Scanner, Shape, Stop};
use super::text::{Text, Unescape, decode};
use std::borrow::Cow;

/// Reads a body, or says why no two parsers are sure to read it alike.
///
/// Nothing is allocated unless a string that is read has an escape or a parameter a strange type.
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
    scanner: Scanner<'a>,
    /// The keys that were met, by their bits.
    seen: u32,
    fault: Option<Broken>,
    /// Faults only if the method is routed by the key, and the method may come last.
    faults_if_routed: Vec<(Key, Broken)>,
    id: IdSeen<'a>,
    method: Option<Text<'a>>,
    params: Params<'a>,
}

impl<'a> Pass<'a> {
    #[inline(always)]
    fn new(text: &'a str) -> Self {
        Self {
            scanner: Scanner::new(text),
            seen: 0,
            fault: None,
            faults_if_routed: Vec::new(),
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

    #[inline(always)]
    fn verdict(&mut self) -> Result<Kind<'a>, Broken> {
        let start = self.walk().map_err(|Stop| self.scanner.broken())?;
        match self.first_fault() {
            Some(fault) => Err(fault),
            None => self
                .kind()
                .map_err(|(class, offset)| Broken { class, offset: offset.unwrap_or(start) }),
        }
    }

    /// Walks the whole body and says where the message starts.
    #[inline(always)]
    fn walk(&mut self) -> Result<usize, Stop> {
        let first = self.scanner.upcoming();
        let start = self.scanner.offset();
        if first == Some(b'{') {
            self.message()?;
        } else {
            self.no_message(start)?;
        }
        self.scanner.end()?;
        Ok(start)
    }

    #[cold]
    fn no_message(&mut self, start: usize) -> Result<(), Stop> {
        if start == 0 && self.scanner.take("\u{feff}".as_bytes()) {
            return Err(self.scanner.stop(FaultClass::ByteOrderMark, start));
        }
        let is_batch = self.scanner.value(0)? == Shape::Array;
        self.refuse(if is_batch { FaultClass::Batch } else { FaultClass::NotAnObject }, start);
        Ok(())
    }

    #[inline(always)]
    fn message(&mut self) -> Result<(), Stop> {
        self.object(Level::Message, |pass, key| {
            match key {
                Key::Jsonrpc => pass.version()?,
                Key::Id => pass.message_id()?,
                Key::Method => pass.method = pass.text(Level::Message, key)?,
                Key::Params if pass.scanner.upcoming() == Some(b'{') => pass.params()?,
                _ => pass.object_elsewhere(Level::Message, key)?,
            }
            Ok(())
        })
    }

    fn params(&mut self) -> Result<(), Stop> {
        self.object(Level::Params, |pass, key| {
            match key {
                Key::Name => pass.params.name = pass.text(Level::Params, key)?,
                Key::Uri => pass.params.uri = pass.text(Level::Params, key)?,
                Key::TaskId => pass.params.task_id = pass.text(Level::Params, key)?,
                Key::ProtocolVersion => {
                    pass.params.protocol_version = pass.text(Level::Params, key)?;
                }
                Key::RequestId => pass.params.request_id = pass.token(Level::Params, key)?,
                Key::RequestState => {
                    pass.params.request_state = pass.text(Level::Params, key)?;
                }
                Key::Arguments => pass.params.arguments = Some(pass.raw(Level::Params)?),
                Key::Meta if pass.scanner.upcoming() == Some(b'{') => {
                    let start = pass.scanner.offset();
                    pass.meta()?;
                    pass.params.meta.literal = pass.scanner.literal(start);
                }
                Key::Ref if pass.scanner.upcoming() == Some(b'{') => pass.reference()?,
                Key::Meta | Key::Ref => pass.object_elsewhere(Level::Params, key)?,
                // The others are only watched for doubling; their values are the server's business.
                _ => _ = pass.scanner.value(Level::Params.depth())?,
            }
            Ok(())
        })
    }

    fn meta(&mut self) -> Result<(), Stop> {
        self.object(Level::Meta, |pass, key| {
            match key {
                Key::ProgressToken => {
                    pass.params.meta.progress_token = pass.token(Level::Meta, key)?;
                }
                Key::ClaimedVersion => {
                    pass.params.meta.protocol_version = pass.text(Level::Meta, key)?;
                }
                Key::ClientCapabilities => pass.params.meta.client_capabilities = pass.claim()?,
                Key::ClientInfo => pass.params.meta.client_info = pass.claim()?,
                _ => pass.params.meta.log_level = pass.claim()?,
            }
            Ok(())
        })
    }

    fn reference(&mut self) -> Result<(), Stop> {
        let mut reference = Reference::default();
        self.object(Level::Reference, |pass, key| {
            let text = pass.text(Level::Reference, key)?;
            match key {
                Key::RefType => reference.kind = text,
                Key::RefName => reference.name = text,
                _ => reference.uri = text,
            }
            Ok(())
        })?;
        self.params.reference = Some(reference);
        Ok(())
    }

    /// Walks over an object; `read` passes the value of a key that is watched and met for the first time.
    #[inline(always)]
    fn object(
        &mut self,
        level: Level,
        mut read: impl FnMut(&mut Self, Key) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut next = self.scanner.open_object();
        while next == Next::Member {
            match self.key(level)? {
                Some(key) => read(self, key)?,
                None => _ = self.scanner.value(level.depth())?,
            }
            next = self.scanner.close_member()?;
        }
        Ok(())
    }

    /// Passes a key and its colon; says which it is, if its value is to be read.
    #[inline(always)]
    fn key(&mut self, level: Level) -> Result<Option<Key>, Stop> {
        _ = self.scanner.upcoming();
        let start = self.scanner.offset();
        let key = match level.take_key(&mut self.scanner) {
            Some(key) => self.first_of(key, start),
            None => self.key_in_disguise(level, start)?,
        };
        self.scanner.colon()?;
        Ok(key)
    }

    #[inline(always)]
    fn first_of(&mut self, key: Key, start: usize) -> Option<Key> {
        if self.seen & key.bit() != 0 {
            self.refuse_key(FaultClass::DuplicateKey, start, key);
            return None;
        }
        self.seen |= key.bit();
        Some(key)
    }

    #[inline(never)]
    fn key_in_disguise(&mut self, level: Level, start: usize) -> Result<Option<Key>, Stop> {
        self.scanner.key()?;
        match find(self.scanner.between_quotes(start), level.keys()) {
            Match::Exact(key) => return Ok(self.first_of(key, start)),
            Match::Variant(key) => self.refuse_key(FaultClass::KeyVariant, start, key),
            Match::NotText => self.refuse(FaultClass::LoneSurrogate, start),
            Match::Unrelated => {}
        }
        Ok(None)
    }

    #[cold]
    fn refuse_key(&mut self, class: FaultClass, start: usize, key: Key) {
        if key == Key::Id {
            self.id = IdSeen::Ambiguous;
        }
        self.refuse(class, start);
    }

    /// Passes a value that should be an object: `result` or `error`, or what turned out to be none.
    #[inline(never)]
    fn object_elsewhere(&mut self, level: Level, key: Key) -> Result<(), Stop> {
        let start = self.value_start();
        let shape = self.scanner.value(level.depth())?;
        let is_read = matches!(key, Key::Params | Key::Meta | Key::Ref);
        if is_read || shape != Shape::Object {
            self.refuse_value(key, type_fault(key), start);
        }
        Ok(())
    }

    #[inline(always)]
    fn version(&mut self) -> Result<(), Stop> {
        let start = self.value_start();
        if !self.scanner.take(br#""2.0""#) {
            let version = self.text(Level::Message, Key::Jsonrpc)?;
            if version.is_some_and(|version| version != "2.0") {
                self.refuse(FaultClass::BadVersion, start);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn message_id(&mut self) -> Result<(), Stop> {
        let start = self.value_start();
        if self.scanner.take(b"null") {
            self.id = IdSeen::Null { offset: start };
        } else if let Some(id) = self.token(Level::Message, Key::Id)? {
            // A disguised id may have come first.
            if let IdSeen::Nothing = self.id {
                self.id = IdSeen::One(id);
            }
        }
        Ok(())
    }

    /// Reads a string or an integer, as it stands.
    fn token(&mut self, level: Level, key: Key) -> Result<Option<Id<'a>>, Stop> {
        let start = self.value_start();
        let class = match self.scanner.value(level.depth())? {
            Shape::Integer | Shape::PlainString => None,
            Shape::EscapedString => {
                let mut characters = Unescape::new(self.scanner.between_quotes(start));
                let is_text = characters.all(|character| character.is_ok());
                (!is_text).then_some(FaultClass::LoneSurrogate)
            }
            _ => Some(type_fault(key)),
        };
        if let Some(class) = class {
            self.refuse_value(key, class, start);
            return Ok(None);
        }
        Ok(Some(Id::checked(self.scanner.literal(start))))
    }

    /// Reads a string.
    fn text(&mut self, level: Level, key: Key) -> Result<Option<Text<'a>>, Stop> {
        let start = self.value_start();
        let decoded = match self.scanner.value(level.depth())? {
            Shape::PlainString => Ok(Cow::Borrowed(self.scanner.between_quotes(start))),
            Shape::EscapedString => decode(self.scanner.between_quotes(start))
                .map(Cow::Owned)
                .map_err(|_| FaultClass::LoneSurrogate),
            _ => Err(type_fault(key)),
        };
        match decoded {
            Ok(decoded) => Ok(Some(Text::new(decoded, start..self.scanner.offset()))),
            Err(class) => {
                self.refuse_value(key, class, start);
                Ok(None)
            }
        }
    }

    /// Passes any value and keeps it as it stands.
    #[inline(always)]
    fn raw(&mut self, level: Level) -> Result<&'a str, Stop> {
        let start = self.value_start();
        self.scanner.value(level.depth())?;
        Ok(self.scanner.literal(start))
    }

    fn claim(&mut self) -> Result<Claim, Stop> {
        let shape = self.scanner.value(Level::Meta.depth())?;
        Ok(if shape == Shape::Object { Claim::Object } else { Claim::NotObject })
    }

    #[inline(always)]
    fn value_start(&mut self) -> usize {
        _ = self.scanner.upcoming();
        self.scanner.offset()
    }

    /// What the message is, by the keys it has.
    #[inline(always)]
    fn kind(&mut self) -> Result<Kind<'a>, (FaultClass, Option<usize>)> {
        let has = |key: Key| self.seen & key.bit() != 0;
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

    /// Refuses a value; one that routes some methods only if it routes this one.
    #[cold]
    fn refuse_value(&mut self, key: Key, class: FaultClass, offset: usize) {
        if key.is_routing() {
            self.faults_if_routed.push((key, Broken { class, offset }));
        } else {
            self.refuse(class, offset);
        }
    }

    /// Keeps the first fault; the scan goes on for the id and for faults of grammar.
    #[cold]
    fn refuse(&mut self, class: FaultClass, offset: usize) {
        self.fault.get_or_insert(Broken { class, offset });
    }

    #[inline(always)]
    fn first_fault(&self) -> Option<Broken> {
        if self.faults_if_routed.is_empty() { self.fault } else { self.first_fault_of_routed() }
    }

    #[cold]
    fn first_fault_of_routed(&self) -> Option<Broken> {
        let is_routed = |key: Key| {
            self.method
                .as_ref()
                .is_some_and(|method| key.routed_methods().contains(&method.as_str()))
        };
        let routed = self.faults_if_routed.iter().filter(|(key, _)| is_routed(*key));
        routed.map(|(_, fault)| *fault).chain(self.fault).min_by_key(|fault| fault.offset)
    }
}

/// What is wrong if the value of this key has another type.
fn type_fault(key: Key) -> FaultClass {
    match key {
        Key::Jsonrpc => FaultClass::BadVersion,
        Key::Id => FaultClass::BadId,
        Key::Method => FaultClass::BadMethod,
        Key::Params => FaultClass::BadParams,
        Key::Result | Key::Error => FaultClass::BadShape,
        _ => FaultClass::BadParam,
    }
}

#[cfg(test)]
mod tests {
    use super::{FaultClass, Kind, Params, peek};
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

    /// Which key of `params` routes which method.
    const ROUTES: &[(&str, &[&str])] = &[
        ("name", &["tools/call", "prompts/get"]),
        ("uri", &["resources/read", "resources/subscribe", "resources/unsubscribe"]),
        ("taskId", &["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"]),
        ("ref", &["completion/complete"]),
        ("protocolVersion", &["initialize"]),
        ("requestId", &["notifications/cancelled"]),
        ("requestState", &["tools/call", "prompts/get", "resources/read"]),
    ];

    #[test]
    fn a_parameter_must_have_its_type_where_it_routes() {
        let every_method = || ROUTES.iter().flat_map(|(_, methods)| *methods).chain(&["x/y"]);
        for (key, routed) in ROUTES {
            for method in every_method() {
                for (wrong, class) in [
                    ("7.5", BadParam),
                    ("null", BadParam),
                    (r#"["a"]"#, BadParam),
                    (r#""\ud800""#, if *key == "ref" { BadParam } else { LoneSurrogate }),
                ] {
                    let method_first = format!(
                        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{key}":^{wrong}}}}}"#
                    );
                    let method_last = format!(
                        r#"{{"params":{{"{key}":^{wrong}}},"jsonrpc":"2.0","id":1,"method":"{method}"}}"#
                    );
                    for marked in [method_first, method_last] {
                        if routed.contains(method) {
                            check(&marked, class, Some("1"));
                        } else {
                            let body = marked.replace('^', "");
                            let params = peek(body.as_bytes()).unwrap().params;
                            assert_eq!(params, Params::default(), "{body}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_routes_nothing_is_still_watched() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{"name":7}}"#;
        assert!(peek(answer.as_bytes()).is_ok());
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"name":7,"ref":{"type":1,"name":"n"}}}"#;
        let reference = peek(body.as_bytes()).unwrap().params.reference.unwrap();
        assert_eq!((reference.kind, reference.name.unwrap().as_str()), (None, "n"));
        for (wrong, class) in [
            (r#"{"name":7,^"name":"a"}"#, DuplicateKey),
            (r#"{"name":7,^"Name":"a"}"#, KeyVariant),
            (r#"{"ref":{"name":7,^"name":"a"}}"#, DuplicateKey),
            (r#"{"_meta":^null}"#, BadParam),
            (r#"{"_meta":^[]}"#, BadParam),
            (r#"{"_meta":{"progressToken":^1.5}}"#, BadParam),
            (r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":^20260728}}"#, BadParam),
        ] {
            check(
                &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x/y","params":{wrong}}}"#),
                class,
                Some("1"),
            );
        }
        // The earliest of the faults that count is told.
        for (method, marked, class) in [
            ("tools/call", r#"{"uri":7,"name":^7,"Name":7}"#, BadParam),
            ("tools/call", r#"{^"Name":7,"name":7}"#, KeyVariant),
            ("x/y", r#"{"uri":7,"name":7,^"Name":7}"#, KeyVariant),
            ("completion/complete", r#"{"ref":{"uri":^1,"name":1}}"#, BadParam),
        ] {
            check(
                &format!(r#"{{"params":{marked},"jsonrpc":"2.0","id":1,"method":"{method}"}}"#),
                class,
                Some("1"),
            );
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
            "protocolVersion":"v","requestId":-3,"requestState":"s","Names":1},"jsonrpc":"2.0","id":"1"} "#
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
            (params.request_state.as_ref(), "s", "\"s\""),
            (meta.protocol_version.as_ref(), "2026-07-28", "\"2026-07-28\""),
            (reference.kind.as_ref(), "ref/prompt", "\"ref/prompt\""),
            (reference.name.as_ref(), "n", "\"n\""),
            (reference.uri.as_ref(), "u", "\"u\""),
        ] {
            let text = text.unwrap();
            assert_eq!((text.as_str(), &body[text.span()]), (expected, literal.as_bytes()));
        }
        let id = envelope.id().unwrap();
        assert_eq!(id.raw(), "\"1\"");
        assert_eq!(id.span_in(body).map(|span| &body[span]), Some(&b"\"1\""[..]));
        assert_eq!(id.span_in(b"another body"), None);
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
