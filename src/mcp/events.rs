//! Reads an event stream as it passes (WHATWG HTML, section 9.2.6): where events end, and what their
//! messages say.

use super::lists::Listed;
use super::verdict::{Lists, MessageScan, Verdict};

const BOM: &[u8] = b"\xef\xbb\xbf";
const DATA: &[u8] = b"data";

/// Reads one event stream, in whatever parts it comes. Lines may end with LF, CRLF or CR.
#[derive(Clone, Debug, Default)]
pub struct EventScan {
    line: Line,
    /// Whether the line before ended with CR, so that an LF belongs to it.
    after_cr: bool,
    /// Whether the event has a line of data so far.
    has_data: bool,
    message: MessageScan,
    verdict: Verdict,
    changed: ChangedLists,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// The byte order mark that may begin a stream, so much of which is here.
    Mark(usize),
    /// A field's name, which so far are so many bytes of `data`. With none it is the line's start.
    Name(usize),
    /// What follows `data:`, where one space has no meaning.
    Space,
    /// The data.
    Data,
    /// A comment, or a field that says nothing of the message.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Mark(0)
    }
}

/// The lists of which a stream said that they have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangedLists(u8);

/// An event that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Whether its message is a list.
    pub(super) lists: Lists,
    /// Whether it was seen to list something.
    pub(super) has_list: bool,
}

impl ChangedLists {
    const ALL: [Listed; 3] = [Listed::Tool, Listed::Prompt, Listed::Resource];

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Listed> {
        Self::ALL.into_iter().filter(move |listed| self.0 & 1 << *listed as u8 != 0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl EventScan {
    /// Reads the next part.
    pub fn feed(&mut self, part: &[u8]) {
        let mut rest = part;
        while !rest.is_empty() {
            let (read, _) = self.next(rest);
            rest = &rest[read..];
        }
    }

    /// What the messages of the events that are over say of the call they answer.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The lists that have changed; they are forgotten.
    pub fn take_changed(&mut self) -> ChangedLists {
        std::mem::take(&mut self.changed)
    }

    /// Reads to the end of an event, or of the part; how many bytes that was.
    pub(super) fn next(&mut self, part: &[u8]) -> (usize, Option<Event>) {
        let mut at = 0;
        if std::mem::take(&mut self.after_cr) && part.first() == Some(&b'\n') {
            at = 1;
        }
        while at < part.len() {
            match self.line {
                Line::Data | Line::Other => {
                    let end = memchr::memchr2(b'\n', b'\r', &part[at..]);
                    let end = end.map_or(part.len(), |end| at + end);
                    if matches!(self.line, Line::Data) {
                        self.message.feed(&part[at..end]);
                    }
                    at = end;
                    if at == part.len() {
                        break;
                    }
                }
                _ => {}
            }
            let byte = part[at];
            if byte != b'\n' && byte != b'\r' {
                at += self.line_byte(byte);
                continue;
            }
            at += 1;
            if byte == b'\r' {
                match part.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if let Some(event) = self.line_over() {
                return (at, Some(event));
            }
        }
        (at, None)
    }

    /// Whether the message of the event that is not over yet is a list; one without data may be.
    pub(super) fn lists(&self) -> Lists {
        self.message.lists()
    }

    /// Whether the event that is not over yet was seen to list something.
    pub(super) fn has_list(&self) -> bool {
        self.message.has_list()
    }

    /// Whether whole lines without data are all that is here of the event.
    pub(super) fn precedes_payload(&self) -> bool {
        !self.has_data && matches!(self.line, Line::Name(0))
    }

    /// Reads a byte of a line before its value; 0 if it is to be read again as another part of it.
    fn line_byte(&mut self, byte: u8) -> usize {
        let (line, read) = match self.line {
            Line::Mark(at) if byte == BOM[at] => match at {
                2 => (Line::Name(0), 1),
                _ => (Line::Mark(at + 1), 1),
            },
            Line::Mark(0) => (Line::Name(0), 0),
            Line::Name(at) if DATA.get(at) == Some(&byte) => (Line::Name(at + 1), 1),
            Line::Name(4) if byte == b':' => {
                self.begin_data();
                (Line::Space, 1)
            }
            Line::Space => (Line::Data, usize::from(byte == b' ')),
            Line::Mark(_) | Line::Name(_) | Line::Data | Line::Other => (Line::Other, 1),
        };
        self.line = line;
        read
    }

    /// The lines of data are joined by line ends.
    fn begin_data(&mut self) {
        if self.has_data {
            self.message.feed(b"\n");
        }
        self.has_data = true;
    }

    fn line_over(&mut self) -> Option<Event> {
        match std::mem::replace(&mut self.line, Line::Name(0)) {
            // The blank line that ends an event, also where it is the first of the stream.
            Line::Name(0) | Line::Mark(0) => {}
            // `data` alone is a line without value.
            Line::Name(4) => {
                self.begin_data();
                return None;
            }
            _ => return None,
        }
        self.has_data = false;
        let message = std::mem::take(&mut self.message);
        self.verdict = self.verdict.max(message.verdict());
        if let Some(changed) = message.changed() {
            self.changed.0 |= 1 << changed as u8;
        }
        Some(Event { lists: message.lists(), has_list: message.has_list() })
    }
}

#[cfg(test)]
mod tests {
    use super::EventScan;
    use crate::mcp::{Listed, Verdict};

    fn check(stream: &str, expected: Verdict) {
        let mut whole = EventScan::default();
        whole.feed(stream.as_bytes());
        assert_eq!(whole.verdict(), expected, "{stream:?}");
        for size in [1, 2, 3, 7] {
            let mut scan = EventScan::default();
            for part in stream.as_bytes().chunks(size) {
                scan.feed(part);
            }
            assert_eq!(scan.verdict(), expected, "{stream:?} in parts of {size}");
        }
    }

    #[test]
    fn the_answer_among_events_decides_in_every_form() {
        let ok = r#"{"result":{},"id":1}"#;
        let failed = r#"{"result":{"isError":true},"id":1}"#;
        let asked = r#"{"id":1,"params":{"result":{}},"method":"roots/list"}"#;
        for end in ["\n", "\r\n", "\r"] {
            let stream = |lines: &[&str]| lines.iter().map(|line| [line, end].concat()).collect();
            let check = |lines: &[&str], expected| {
                let text: String = stream(lines);
                check(&text, expected);
                check(&format!("\u{feff}{text}"), expected);
            };
            check(&[&format!("data: {ok}"), ""], Verdict::Ok);
            check(&[&format!("data:{ok}"), ""], Verdict::Ok);
            check(&["id: 1", "retry: 5", "data:", "", &format!("data: {ok}"), ""], Verdict::Ok);
            check(
                &["data", "", "event: message", &format!("data: {failed}"), "id: 3/0", ""],
                Verdict::ToolError,
            );
            check(
                &[": ping", "", &format!("data: {asked}"), "", &format!("data: {ok}"), ""],
                Verdict::Ok,
            );
            check(&[&format!("data: {asked}"), ""], Verdict::None);
            // Of several answers the worst counts; what is no JSON is worse than nothing.
            check(
                &[&format!("data: {failed}"), "", &format!("data: {ok}"), ""],
                Verdict::ToolError,
            );
            check(&["data: ping", ""], Verdict::Unclear);
            check(&["data: ping", "", &format!("data: {ok}"), ""], Verdict::Ok);
            // Several lines are one message.
            check(
                &["data: {\"result\":", "data:  {\"isError\"", "data::true}", "data: }", ""],
                Verdict::ToolError,
            );
            // An event counts once it is over, and only lines of data have a say.
            check(&[&format!("data: {ok}")], Verdict::None);
            check(&[&format!("datax: {ok}"), ""], Verdict::None);
            check(&[&format!("Data: {ok}"), ""], Verdict::None);
            check(&[&format!(" data: {ok}"), ""], Verdict::None);
            check(&[&format!("id: data: {ok}"), "", "dat", ""], Verdict::None);
        }
        check("\n\n\r\r\n", Verdict::None);
        check("\u{feff}\u{feff}data: {\"result\":{}}\n\n", Verdict::None);
    }

    #[test]
    fn changed_lists_are_noticed_once() {
        let mut scan = EventScan::default();
        scan.feed(b"data: {\"jsonrpc\":\"2.0\",\"meth");
        scan.feed(b"od\":\"notifications/resources/list_changed\"}\n\n");
        scan.feed(b"data: {\"method\":\"notifications/tools\\/list_changed\"}\n\n");
        scan.feed(b"data: {\"method\":\"notifications/prompts/list_changed\"}\n");
        let changed = scan.take_changed();
        assert_eq!(changed.iter().collect::<Vec<_>>(), [Listed::Tool, Listed::Resource]);
        assert!(scan.take_changed().is_empty());
    }
}
