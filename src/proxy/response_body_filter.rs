//! What the gateway notices of an answer's body while it passes untouched.

use http::header::CONTENT_ENCODING;

use super::response_filter::UpstreamHead;
use crate::mcp::{ChangedLists, EventScan, MessageScan, Verdict};

/// Watches one answer's body.
pub(super) struct BodyWatch {
    body: Watched,
    tail: [u8; 4],
}

/// What a body is read as.
enum Watched {
    Message(MessageScan),
    Events(EventScan),
    /// It is no message: nothing is read of it.
    Nothing,
}

impl BodyWatch {
    pub(super) fn new(head: &UpstreamHead) -> Self {
        // The gateway asks for no coding; a server that uses one all the same is not understood.
        let body = match head.field(&CONTENT_ENCODING).is_some() {
            true => Watched::Nothing,
            false if head.is_event_stream() => Watched::Events(EventScan::default()),
            false if head.is_json() => Watched::Message(MessageScan::default()),
            false => Watched::Nothing,
        };
        Self { body, tail: *b"\r\n\r\n" }
    }

    /// Notes one part of the body.
    pub(super) fn saw(&mut self, part: &[u8]) {
        match &mut self.body {
            Watched::Message(message) => message.feed(part),
            Watched::Events(events) => {
                events.feed(part);
                for byte in part.iter().skip(part.len().saturating_sub(4)) {
                    self.tail.rotate_left(1);
                    self.tail[3] = *byte;
                }
            }
            Watched::Nothing => {}
        }
    }

    /// Whether the body is a stream of events.
    pub(super) fn is_event_stream(&self) -> bool {
        matches!(self.body, Watched::Events(_))
    }

    /// Whether the body ends between two events, so that one more may follow.
    pub(super) fn is_between_events(&self) -> bool {
        let ends = |end: &[u8]| self.tail.ends_with(end);
        self.is_event_stream() && (ends(b"\n\n") || ends(b"\r\n\r\n") || ends(b"\r\r"))
    }

    /// What the body, as far as it has come, says of the call it answers.
    pub(super) fn verdict(&self) -> Verdict {
        match &self.body {
            Watched::Message(message) => message.verdict(),
            Watched::Events(events) => events.verdict(),
            Watched::Nothing => Verdict::None,
        }
    }

    /// The lists of which the stream has said since the last time that they have changed.
    pub(super) fn take_changed(&mut self) -> ChangedLists {
        match &mut self.body {
            Watched::Events(events) => events.take_changed(),
            Watched::Message(_) | Watched::Nothing => ChangedLists::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BodyWatch;
    use crate::mcp::Verdict;
    use crate::proxy::response_filter::UpstreamHead;
    use http::{HeaderName, HeaderValue};

    fn watch(fields: &[(&'static str, &'static str)], parts: &[&'static str]) -> BodyWatch {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let fields = fields.iter().map(field).collect();
        let mut watch = BodyWatch::new(&UpstreamHead { status: 200, fields, length: None });
        for part in parts {
            watch.saw(part.as_bytes());
        }
        watch
    }

    const JSON: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-8")];
    const EVENTS: &[(&str, &str)] = &[("content-type", "text/event-stream")];

    #[test]
    fn an_answer_is_judged_by_its_kind() {
        let answer = &[r#"{"id":1,"#, r#""result":{}}"#];
        assert_eq!(watch(JSON, answer).verdict(), Verdict::Ok);
        assert_eq!(watch(JSON, &answer[..1]).verdict(), Verdict::Unclear);
        assert_eq!(watch(EVENTS, &["data: {\"result\":{}}\n\n"]).verdict(), Verdict::Ok);
        assert_eq!(watch(EVENTS, &["data: {\"result\":{}}\n"]).verdict(), Verdict::None);
        assert_eq!(watch(&[("content-type", "text/html")], answer).verdict(), Verdict::None);
        let coded = [JSON, &[("content-encoding", "gzip")]].concat();
        assert_eq!(watch(&coded, answer).verdict(), Verdict::None);
    }

    #[test]
    fn the_place_between_events_is_known_across_parts() {
        assert!(watch(EVENTS, &[]).is_between_events());
        assert!(watch(EVENTS, &["data: x\n", "\n"]).is_between_events());
        assert!(watch(EVENTS, &["data: x\r\n\r", "\n"]).is_between_events());
        assert!(!watch(EVENTS, &["data: x\n"]).is_between_events());
        assert!(!watch(JSON, &["{}\n\n"]).is_between_events());
    }
}
