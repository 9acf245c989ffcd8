//! What the gateway notices of an answer's body while it passes untouched.

use bytes::Bytes;

use super::response_filter::UpstreamHead;
use crate::mcp::Answer;

/// An answer larger than this is not looked at: it only delays the day its tool gets a label.
const LOOK_BYTES_MAX: usize = 64 * 1024;

/// Watches one answer's body.
pub(super) struct BodyWatch {
    is_event_stream: bool,
    looked_at: Option<Vec<u8>>,
    tail: [u8; 4],
}

/// Whether the answer must be understood, or only passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Its tool is known already.
    Pass,
    /// Its tool becomes a label if the answer is no error.
    Closely,
}

impl BodyWatch {
    pub(super) fn new(head: &UpstreamHead, look: Look) -> Self {
        let is_event_stream = head.is_event_stream();
        let success = (200..300).contains(&head.status);
        let looked_at = (look == Look::Closely && success).then(Vec::new);
        Self { is_event_stream, looked_at, tail: *b"\r\n\r\n" }
    }

    /// Notes one part of the body.
    pub(super) fn saw(&mut self, part: &Bytes) {
        if let Some(bytes) = &mut self.looked_at {
            if bytes.len() + part.len() <= LOOK_BYTES_MAX {
                bytes.extend_from_slice(part);
            } else {
                self.looked_at = None;
            }
        }
        if self.is_event_stream {
            for byte in part.iter().skip(part.len().saturating_sub(4)) {
                self.tail.rotate_left(1);
                self.tail[3] = *byte;
            }
        }
    }

    /// Whether the body is a stream of events.
    pub(super) fn is_event_stream(&self) -> bool {
        self.is_event_stream
    }

    /// Whether the body ends between two events, so that one more may follow.
    pub(super) fn is_between_events(&self) -> bool {
        let ends = |end: &[u8]| self.tail.ends_with(end);
        self.is_event_stream && (ends(b"\n\n") || ends(b"\r\n\r\n") || ends(b"\r\r"))
    }

    /// Whether the answer was seen to report no error.
    pub(super) fn answered_without_error(&self) -> bool {
        let Some(bytes) = &self.looked_at else { return false };
        let answer = match self.is_event_stream {
            true => Answer::of_events(bytes),
            false => Answer::of_json(bytes),
        };
        matches!(answer, Some(Answer::Success { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::{BodyWatch, Look};
    use crate::proxy::response_filter::UpstreamHead;
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue};

    fn watch(kind: &'static str, parts: &[&'static str]) -> BodyWatch {
        let field = (HeaderName::from_static("content-type"), HeaderValue::from_static(kind));
        let head = UpstreamHead { status: 200, fields: vec![field], length: None };
        let mut watch = BodyWatch::new(&head, Look::Closely);
        for part in parts {
            watch.saw(&Bytes::from_static(part.as_bytes()));
        }
        watch
    }

    #[test]
    fn an_answer_without_error_is_noticed() {
        let json = "application/json";
        assert!(watch(json, &[r#"{"id":1,"#, r#""result":{}}"#]).answered_without_error());
        assert!(!watch(json, &[r#"{"id":1,"error":{}}"#]).answered_without_error());
        let events = "text/event-stream";
        assert!(watch(events, &["data: {\"result\":{}}\n\n"]).answered_without_error());
        assert!(!watch(events, &["data: {\"result\":{}}\n"]).answered_without_error());
    }

    #[test]
    fn the_place_between_events_is_known_across_parts() {
        let events = "text/event-stream";
        assert!(watch(events, &[]).is_between_events());
        assert!(watch(events, &["data: x\n", "\n"]).is_between_events());
        assert!(watch(events, &["data: x\r\n\r", "\n"]).is_between_events());
        assert!(!watch(events, &["data: x\n"]).is_between_events());
        assert!(!watch("application/json", &["{}\n\n"]).is_between_events());
    }
}
