//! Where in which trace a request stands: W3C Trace Context, read strictly and written without an allocation.

/// Bytes of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;
/// A `tracestate` that is longer is not passed on (the recommendation asks for 512 at least).
const TRACESTATE_BYTES_MAX: usize = 512;

/// A span, as others refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace that it belongs to.
    pub trace_id: [u8; 16],
    /// Which span of the trace it is.
    pub span_id: [u8; 8],
    /// Whether somebody keeps it.
    pub is_sampled: bool,
}

/// What a message says in its `_meta` of the trace that it belongs to (SEP-414).
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The span that the message was sent from.
    pub parent: SpanContext,
    /// `tracestate`, if there is one.
    pub state: Option<Box<str>>,
}

impl SpanContext {
    /// Reads a `traceparent`. A later version may have more to say; what this one knows stands first.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        let (version, rest) = (bytes.get(..2)?, bytes.get(2..TRACEPARENT_BYTES)?);
        let mut number = [0; 1];
        hex(version, &mut number)?;
        let is_whole = match number {
            [0xff] => false,
            [0] => bytes.len() == TRACEPARENT_BYTES,
            _ => bytes.get(TRACEPARENT_BYTES).is_none_or(|byte| *byte == b'-'),
        };
        let are_apart = [0, 33, 50].into_iter().all(|dash| rest[dash] == b'-');
        if !is_whole || !are_apart {
            return None;
        }
        let (mut trace_id, mut span_id, mut flags) = ([0; 16], [0; 8], [0; 1]);
        hex(&rest[1..33], &mut trace_id)?;
        hex(&rest[34..50], &mut span_id)?;
        hex(&rest[51..53], &mut flags)?;
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags[0] & 1 == 1 })
    }

    /// The same as a `traceparent`.
    pub fn traceparent(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id);
        write_hex(&mut text[36..52], &self.span_id);
        write_hex(&mut text[53..], &[u8::from(self.is_sampled)]);
        text
    }

    /// The id of the trace, as text.
    pub fn trace_id_text(&self) -> [u8; 32] {
        let mut text = [b'0'; 32];
        write_hex(&mut text, &self.trace_id);
        text
    }
}

impl Claimed {
    /// Reads a `_meta`, as it stands in a message. What is no trace context is no business of ours.
    pub fn read(meta: &str) -> Option<Self> {
        // Most messages have none, and need not be read again.
        memchr::memmem::find(meta.as_bytes(), b"traceparent")?;
        let parent = SpanContext::parse(text_of(meta, "traceparent")?)?;
        let is_sendable = |state: &&str| {
            let is_visible = state.bytes().all(|byte| (0x20..0x7f).contains(&byte));
            is_visible && !state.is_empty() && state.len() <= TRACESTATE_BYTES_MAX
        };
        Some(Self {
            parent,
            state: text_of(meta, "tracestate").filter(is_sendable).map(Into::into),
        })
    }
}

/// The text that stands once under this key of an object, which is JSON; without an escape, because
/// nothing that is looked for here needs one. Nothing is allocated for it.
fn text_of<'m>(object: &'m str, wanted: &str) -> Option<&'m str> {
    let bytes = object.as_bytes();
    let (mut at, mut depth, mut is_value) = (0, 0_usize, false);
    let (mut key, mut found) = ("", None);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' if depth == 1 => is_value = true,
            b',' if depth == 1 => is_value = false,
            b'"' => {
                let end = text_end(bytes, at + 1)?;
                let text = object.get(at + 1..end)?;
                match (depth, is_value) {
                    (1, false) => key = text,
                    (1, true) if key == wanted && found.replace(text).is_some() => return None,
                    _ => {}
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    found.filter(|text| !text.contains('\\'))
}

/// Where the string that goes on at `at` has its last quote.
fn text_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Reads lower-case digits, as the recommendation wants them.
fn hex(digits: &[u8], into: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in into.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
    }
}

#[cfg(test)]
mod tests {
    use super::{Claimed, SpanContext, TRACESTATE_BYTES_MAX};

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written() {
        for good in [GOOD, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"] {
            let context = SpanContext::parse(good).expect("a context");
            assert_eq!(context.traceparent(), good.as_bytes());
            assert_eq!(context.is_sampled, good.ends_with('1'));
            assert_eq!(context.trace_id_text(), good.as_bytes()[3..35]);
        }
        // Other flags are not passed on, because their meaning is not known.
        let more = SpanContext::parse(&GOOD.replace("-01", "-ff")).expect("a context");
        assert_eq!(more.traceparent(), GOOD.as_bytes());
        let later = SpanContext::parse(&format!("cc{}-what-follows", &GOOD[2..]));
        assert_eq!(later, SpanContext::parse(GOOD));
    }

    #[test]
    fn what_is_no_context_is_none() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("cc{}x", &GOOD[2..]),
            &GOOD.replace("00-0", "ff-0"),
            &GOOD.to_uppercase(),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("319c-", "319c_"),
            &GOOD.replace("0af7", "€7"),
        ] {
            assert_eq!(SpanContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_message_says_where_it_comes_from() {
        let read = |meta: &str| Claimed::read(&meta.replace("GOOD", GOOD));
        let parent = SpanContext::parse(GOOD).expect("a context");
        for (meta, state) in [
            (r#"{"traceparent":"GOOD"}"#, None),
            (r#"{"traceparent":"GOOD","tracestate":"a=1","other":[{}]}"#, Some("a=1")),
            (r#"{"a\\":"\"","b":["x",{"traceparent":1}], "traceparent" : "GOOD" }"#, None),
            (r#"{"traceparent":"GOOD","tracestate":"a\n"}"#, None),
        ] {
            let claimed = read(meta);
            assert_eq!(claimed, Some(Claimed { parent, state: state.map(Into::into) }), "{meta}");
        }
        let long = "x".repeat(TRACESTATE_BYTES_MAX + 1);
        let long = read(&format!(r#"{{"traceparent":"GOOD","tracestate":"{long}"}}"#));
        assert_eq!(long.expect("a parent").state, None);
        for none in [
            "",
            "{}",
            r#"{"traceparent":1}"#,
            r#"{"traceparent":"garbage"}"#,
            r#"{"traceparent":"GOOD","traceparent":"GOOD"}"#,
            r#"{"nested":{"traceparent":"GOOD"}}"#,
            r#"{"a":"traceparent","b":"GOOD"}"#,
            r#"{"trac\u0065parent":"GOOD","traceparent2":1}"#,
            "[\"traceparent\"]",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
