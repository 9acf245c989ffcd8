//! The event stream of one server on its way to a client, in whatever parts it comes: its messages
//! are renamed, its event ids say which server they are of, and everything else passes as it is.

use super::message::Passage;
use super::pending::Pending;
use crate::mcp::{Edit, EditScan, Unfit};

const BOM: &[u8] = b"\xef\xbb\xbf";
/// A longer id of an event is not passed on: clients send it back in a header.
pub const EVENT_ID_BYTES_MAX: usize = 1024;

/// The events of one server's stream.
///
/// An event that is not over is held, so that one which must not pass is dropped as a whole; a client
/// does nothing with a part of an event either, so nobody waits for longer. What is too large to be
/// held passes as far as it is known how it reads.
#[derive(Debug)]
pub struct EventsToClient {
    bytes_max: usize,
    scan: EditScan,
    line: Line,
    ending: Ending,
    /// Where the line began, and where the value of its field.
    line_at: usize,
    value_at: usize,
    /// How much there is of the event that is not over: places count from its first byte.
    seen: usize,
    has_fields: bool,
    has_data: bool,
    /// What of it is here and was not passed on.
    held: Pending,
    /// Why it does not pass.
    fault: Option<Unfit>,
}

/// What becomes of a part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Passing {
    /// It passes as it is.
    Whole,
    /// These bytes pass in its place; they may be none.
    Instead(Vec<u8>),
}

/// What a part of a stream was.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// What passes.
    pub passing: Passing,
    /// The first of the events that were dropped, and how many there were.
    pub dropped: Option<(Unfit, u32)>,
}

/// The stream must end: an event was passed on in part, and the rest of it does not pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// What passes of the part before that event.
    pub before: Vec<u8>,
    /// Why.
    pub fault: Unfit,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// The byte order mark that may begin a stream, so much of which is here.
    Mark(usize),
    /// The line's start.
    Start,
    /// A name that is known so far, and how much of it is here.
    Name(Field, usize),
    /// What follows the colon, where one space has no meaning.
    Space(Field),
    Value(Field),
    Comment,
    /// A field that says nothing to the gateway.
    Other,
}

/// How the part before ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    #[default]
    Whole,
    /// With CR, so that an LF belongs to the line that it ended.
    Cr,
    /// With the CR of an event that was dropped, and the LF is dropped too.
    DroppedCr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Id,
}

impl Field {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Data => b"data",
            Self::Id => b"id",
        }
    }
}

impl EventsToClient {
    /// The events of a stream on this way, at most so many bytes of which are held.
    pub fn new(passage: &Passage<'_>, bytes_max: usize) -> Self {
        Self {
            bytes_max,
            scan: EditScan::new(passage.sought()),
            line: Line::Mark(0),
            ending: Ending::Whole,
            line_at: 0,
            value_at: 0,
            seen: 0,
            has_fields: false,
            has_data: false,
            held: Pending::default(),
            fault: None,
        }
    }

    /// Whether all that was passed on ends between two events: only there may the events of another
    /// server follow.
    pub fn is_between_events(&self) -> bool {
        self.held.at == 0
    }

    /// Takes the next part of the stream.
    pub fn pass(&mut self, part: &[u8], passage: &Passage<'_>) -> Result<Part, Cut> {
        let mut out = Vec::new();
        let mut dropped: Option<(Unfit, u32)> = None;
        let (mut at, mut copied) = (0, 0);
        let mut differs = !self.held.bytes.is_empty() || self.held.at > 0;
        while at < part.len() {
            let begin = at;
            let (read, is_over) = self.next(&part[at..], passage);
            at += read;
            if is_over && self.fault.is_none() && self.is_untouched() {
                self.forget_event();
                continue;
            }
            out.extend_from_slice(&part[copied..begin]);
            (copied, differs) = (at, true);
            if let Some(fault) = self.fault.filter(|_| self.held.at > 0) {
                return Err(Cut { before: out, fault });
            }
            if !is_over {
                if let Err(fault) = self.hold(&part[begin..at], &mut out) {
                    return Err(Cut { before: out, fault });
                }
                continue;
            }
            match self.fault {
                Some(fault) => dropped.get_or_insert((fault, 0)).1 += 1,
                None => {
                    self.held.bytes.extend_from_slice(&part[begin..at]);
                    self.held.release(self.seen, &mut out);
                }
            }
            self.forget_event();
        }
        if !differs {
            return Ok(Part { passing: Passing::Whole, dropped });
        }
        out.extend_from_slice(&part[copied..]);
        Ok(Part { passing: Passing::Instead(out), dropped })
    }

    fn is_untouched(&self) -> bool {
        self.held.bytes.is_empty() && self.held.at == 0 && self.held.edits.is_empty()
    }

    fn forget_event(&mut self) {
        if self.fault.is_some() && self.ending == Ending::Cr {
            self.ending = Ending::DroppedCr;
        }
        (self.line_at, self.seen) = (0, 0);
        (self.has_fields, self.has_data, self.fault) = (false, false, None);
        self.held = Pending::default();
    }

    /// Holds what is here of an event, and passes on what is too much to be held.
    fn hold(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        if self.fault.is_some() {
            self.held.bytes = Vec::new();
            return Ok(());
        }
        self.held.bytes.extend_from_slice(bytes);
        if self.held.bytes.len() <= self.bytes_max {
            return Ok(());
        }
        self.collect_edits();
        let settled = match self.line {
            Line::Value(Field::Data) | Line::Comment | Line::Other => self.seen,
            // Nobody knows how this line reads before it is over.
            _ => self.line_at,
        };
        self.held.release(self.scan.settled(settled), out);
        if self.held.bytes.len() <= self.bytes_max {
            return Ok(());
        }
        if self.held.at > 0 {
            return Err(Unfit::TooLarge);
        }
        self.fault = Some(Unfit::TooLarge);
        self.held.bytes = Vec::new();
        Ok(())
    }

    fn collect_edits(&mut self) {
        for edit in self.scan.take_edits() {
            self.held.edit(edit);
        }
    }

    /// Reads to where something may be passed on, or to the end of the part; how many bytes that was.
    fn next(&mut self, part: &[u8], passage: &Passage<'_>) -> (usize, bool) {
        let mut at = 0;
        let is_lf = part.first() == Some(&b'\n');
        match std::mem::take(&mut self.ending) {
            // Some readers wait for it before they take the event for over.
            Ending::Cr if is_lf && self.seen == 0 => return (1, true),
            Ending::Cr if is_lf => {
                at = 1;
                self.line_at = self.seen + 1;
            }
            Ending::DroppedCr if is_lf => {
                self.held.edit(Edit { place: 0..1, instead: Vec::new() });
                self.seen = 1;
                return (1, true);
            }
            _ => {}
        }
        while at < part.len() {
            if let Line::Value(_) | Line::Comment | Line::Other = self.line {
                let end = memchr::memchr2(b'\n', b'\r', &part[at..]);
                let end = end.map_or(part.len(), |end| at + end);
                if self.line == Line::Value(Field::Data) {
                    self.feed(&part[at..end], self.seen + at, passage);
                }
                at = end;
                if at == part.len() {
                    break;
                }
            }
            let byte = part[at];
            if byte != b'\n' && byte != b'\r' {
                at += self.line_byte(byte, self.seen + at, passage);
                continue;
            }
            let line_end = self.seen + at;
            at += 1;
            if byte == b'\r' {
                match part.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.ending = Ending::Cr,
                }
            }
            let is_over = self.line_over(line_end, passage);
            self.line_at = self.seen + at;
            if is_over {
                self.seen += at;
                self.collect_edits();
                return (at, true);
            }
        }
        self.seen += at;
        (at, false)
    }

    /// Reads a byte of a line before its value; 0 if it is to be read again as another part of it.
    fn line_byte(&mut self, byte: u8, place: usize, passage: &Passage<'_>) -> usize {
        let (line, read) = match self.line {
            Line::Mark(at) if byte == BOM[at] => match at {
                2 => {
                    // Among the events of several servers a mark would be a part of a name.
                    self.held.edit(Edit { place: 0..3, instead: Vec::new() });
                    (Line::Start, 1)
                }
                _ => (Line::Mark(at + 1), 1),
            },
            Line::Mark(0) => (Line::Start, 0),
            Line::Start => match byte {
                b'd' => (Line::Name(Field::Data, 1), 1),
                b'i' => (Line::Name(Field::Id, 1), 1),
                b':' => (Line::Comment, 1),
                _ => (Line::Other, 1),
            },
            Line::Name(field, at) if field.name().get(at) == Some(&byte) => {
                (Line::Name(field, at + 1), 1)
            }
            Line::Name(field, at) if at == field.name().len() && byte == b':' => {
                if field == Field::Data {
                    self.begin_data(place, passage);
                }
                (Line::Space(field), 1)
            }
            Line::Space(field) => {
                let read = usize::from(byte == b' ');
                self.value_at = place + read;
                (Line::Value(field), read)
            }
            Line::Mark(_) | Line::Name(..) | Line::Value(_) | Line::Comment | Line::Other => {
                (Line::Other, 1)
            }
        };
        self.line = line;
        read
    }

    /// The lines of data are joined by line ends.
    fn begin_data(&mut self, place: usize, passage: &Passage<'_>) {
        if self.has_data {
            self.feed(b"\n", place, passage);
        } else {
            self.scan.restart();
        }
        self.has_data = true;
    }

    fn feed(&mut self, bytes: &[u8], place: usize, passage: &Passage<'_>) {
        if self.fault.is_none() {
            self.fault = self.scan.feed(bytes, place, passage).err();
        }
    }

    /// Whether what is here may be passed on: it is an event, or only comments.
    fn line_over(&mut self, line_end: usize, passage: &Passage<'_>) -> bool {
        let line = std::mem::replace(&mut self.line, Line::Start);
        match line {
            // The blank line that ends an event, also where it is the first of the stream.
            Line::Start | Line::Mark(0) => {
                if self.has_data && self.fault.is_none() && !self.scan.is_over() {
                    self.fault = Some(Unfit::Truncated);
                }
                return true;
            }
            Line::Comment => return !self.has_fields,
            Line::Value(Field::Id) => self.id_over(line_end, passage),
            // `data` alone is a line without value.
            Line::Name(Field::Data, 4) => self.begin_data(line_end, passage),
            _ => {}
        }
        self.has_fields = true;
        false
    }

    /// Says whose the id is. One that is too long becomes a comment; one that is empty has a meaning
    /// of its own.
    fn id_over(&mut self, line_end: usize, passage: &Passage<'_>) {
        let (place, instead) = match line_end - self.value_at {
            0 => return,
            1..=EVENT_ID_BYTES_MAX => (self.value_at..self.value_at, event_id(passage.member, "")),
            _ => (self.line_at..line_end, ":".to_owned()),
        };
        self.held.edit(Edit { place, instead: instead.into_bytes() });
    }
}

/// The id of an event of this server, as clients see it.
pub fn event_id(member: [u8; 4], own: &str) -> String {
    format!("{:08x}.{own}", u32::from_be_bytes(member))
}

/// Which server the event is of that a client saw last (`Last-Event-ID`), and the server's own id of
/// it. `None` if it is none of ours.
pub fn own_event_id(shown: &str) -> Option<([u8; 4], &str)> {
    let (member, own) = shown.split_once('.')?;
    let is_ours = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if member.len() != 8 || !member.bytes().all(is_ours) || own.is_empty() {
        return None;
    }
    let member = u32::from_str_radix(member, 16).ok()?;
    (own.len() <= EVENT_ID_BYTES_MAX).then_some((member.to_be_bytes(), own))
}

#[cfg(test)]
mod tests {
    use super::{Cut, EventsToClient, Part, Passing, event_id, own_event_id};
    use crate::federation::{Answers, Holder, Passage};
    use crate::mcp::Unfit;
    use crate::sessions::{Binding, Sealing, SessionKey};

    const MEMBER: [u8; 4] = [0, 0xab, 1, 2];

    fn sealing() -> Sealing {
        Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter())
    }

    fn passage(sealing: &Sealing) -> Passage<'_> {
        Passage {
            holder: Holder {
                sealing,
                session: Some(SessionKey([7; 12])),
                binding: Binding { route: &[1; 16], caller: &[2; 16] },
            },
            member: MEMBER,
            server: "hub",
            uri_prefix: "github+",
            answers: Answers::Any,
            subscription: None,
            now: 0,
        }
    }

    /// What passes of a stream in these parts, how many events were dropped, and why it was cut.
    fn pass(parts: &[&[u8]], bytes_max: usize) -> (String, u32, Option<Unfit>) {
        let sealing = sealing();
        let passage = passage(&sealing);
        let mut events = EventsToClient::new(&passage, bytes_max);
        let (mut out, mut count) = (Vec::new(), 0);
        for part in parts {
            match events.pass(part, &passage) {
                Ok(Part { passing, dropped }) => {
                    match passing {
                        Passing::Whole => out.extend_from_slice(part),
                        Passing::Instead(instead) => out.extend(instead),
                    }
                    count += dropped.map_or(0, |(_, count)| count);
                }
                Err(Cut { before, fault }) => {
                    out.extend(before);
                    return (String::from_utf8(out).expect("text"), count, Some(fault));
                }
            }
        }
        (String::from_utf8(out).expect("text"), count, None)
    }

    /// However a stream is cut, and however little may be held, the same passes.
    #[track_caller]
    fn check(stream: &str, expected: &str) {
        let bytes = stream.as_bytes();
        for bytes_max in [10_000, 400] {
            for size in [bytes.len(), 1, 2, 3, 5, 8, 13, 40] {
                let parts: Vec<&[u8]> = bytes.chunks(size).collect();
                let (passed, dropped, fault) = pass(&parts, bytes_max);
                assert_eq!(
                    (passed.as_str(), dropped, fault),
                    (expected, 0, None),
                    "parts of {size}"
                );
            }
        }
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(pass(&[first, second], 10_000).0, expected, "cut at {cut}");
        }
    }

    const ASK: &str = r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#;
    const TOLD: &str =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}"#;

    #[test]
    fn every_form_of_a_stream_is_renamed_in_place() {
        let sealing = sealing();
        let id = passage(&sealing).holder.show_request_id(MEMBER, "5").expect("sealed");
        let asked = ASK.replace('5', &format!("\"{id}\""));
        for end in ["\n", "\r\n", "\r"] {
            for (own, shown) in [
                ("data: A||", "data: S||"),
                ("data:A||", "data:S||"),
                ("event: message|id: 7|data: A||", "event: message|id: 00ab0102.7|data: S||"),
                ("data: A|id:3/0|retry: 3000||", "data: S|id:00ab0102.3/0|retry: 3000||"),
                ("id|id:|id: |data: T||", "id|id:|id: |data: T||"),
                (": a comment|data|data: A|data||", ": a comment|data|data: S|data||"),
                (
                    "data: {\"id\":|data:5,|data: \"method\":\"roots/list\"|data:}||",
                    "data: {\"id\":|data:I,|data: \"method\":\"roots/list\"|data:}||",
                ),
                ("id: 0|data:||data: T||: ping||", "id: 00ab0102.0|data:||data: T||: ping||"),
                ("||ids: 4|dat: A|identity|d:||", "||ids: 4|dat: A|identity|d:||"),
            ] {
                let write = |text: &str| {
                    let text = text.replace('|', end).replace('T', TOLD).replace('A', ASK);
                    text.replace('S', &asked).replace('I', &format!("\"{id}\""))
                };
                check(&write(own), &write(shown));
                check(
                    &format!("\u{feff}{}{}", write(own), write(own)),
                    &format!("{}{}", write(shown), write(shown)),
                );
            }
        }
    }

    #[test]
    fn what_needs_no_change_is_neither_copied_nor_held() {
        let sealing = sealing();
        let passage = passage(&sealing);
        let mut events = EventsToClient::new(&passage, 100);
        for part in [
            &format!("event: message\ndata: {TOLD}\n\ndata: {TOLD}\n\n"),
            ": ping\n",
            ": ping\n\n",
            "retry: 5\n\n",
        ] {
            let whole = Part { passing: Passing::Whole, dropped: None };
            assert_eq!(events.pass(part.as_bytes(), &passage), Ok(whole), "{part}");
            assert!(events.is_between_events());
        }
    }

    #[test]
    fn what_is_too_large_to_be_held_passes_as_far_as_it_is_known() {
        let text = "x".repeat(5_000);
        let content = format!(
            r#"data: {{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{text}"}},{{"uri":"a:b"}}]}}}}"#
        );
        check(&format!("{content}\n\n"), &format!("{}\n\n", content.replace("a:b", "github+a:b")));
        // An id that comes last is known when it comes, and one that comes first is not held for long.
        let stream =
            format!("data: {{\"method\":\"a\",\"params\":{{\"x\":\"{text}\"}},\"id\":5}}\n\n");
        let sealing = sealing();
        let id = passage(&sealing).holder.show_request_id(MEMBER, "5").expect("sealed");
        check(&stream, &stream.replace(":5}", &format!(":\"{id}\"}}")));
        let parts: Vec<&[u8]> = content.as_bytes().chunks(100).collect();
        let mut events = EventsToClient::new(&passage(&sealing), 400);
        for part in &parts[..20] {
            events.pass(part, &passage(&sealing)).expect("it passes");
            assert!(events.held.bytes.len() <= 400);
        }
        assert!(!events.is_between_events());
    }

    #[test]
    fn what_must_not_pass_is_dropped_or_ends_the_stream() {
        let told = format!("data: {TOLD}\n\n");
        let long = "x".repeat(2_000);
        for (event, fault) in [
            (r#"{"id":1,"id":2,"method":"a"}"#.to_owned(), None),
            ("ping".to_owned(), None),
            (r#"{"id":5,"method":"a""#.to_owned(), None),
            (format!(r#"{{"id":"{long}","method":"a"}}"#), Some(Unfit::TooLarge)),
            (format!(r#"{{"a":"{long}","id":1,"id":2,"method":"a"}}"#), Some(Unfit::DuplicateKey)),
            (format!(r#"{{"a":"{long}","id":"{long}","method":"a"}}"#), Some(Unfit::TooLong)),
        ] {
            let stream = format!("{told}id: 9\ndata: {event}\n\n{told}");
            for size in [stream.len(), 1, 7, 40] {
                let parts: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                let dropped = (format!("{told}{told}"), 1, None);
                assert_eq!(pass(&parts, 100_000), dropped, "{event} in parts of {size}");
                let (passed, count, found) = pass(&parts, 600);
                match fault {
                    Some(_) if size < stream.len() => {
                        assert!(
                            found.is_some() && !passed[told.len()..].contains("\n\n"),
                            "{passed}"
                        );
                    }
                    _ => assert_eq!((passed.as_str(), count, found), (dropped.0.as_str(), 1, None)),
                }
            }
        }
        let parts: Vec<Vec<u8>> =
            vec![b"id: ".to_vec(), vec![b'x'; 1_000_000], b"\ndata: x".to_vec()];
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        assert_eq!(pass(&parts, 4096), (String::new(), 0, None));
        let stream = format!("id: {}\ndata: {TOLD}\n\n", "x".repeat(1025));
        let (first, second) = stream.as_bytes().split_at(1000);
        assert_eq!(pass(&[first, second], 4096).0, format!(":\ndata: {TOLD}\n\n"));
    }

    #[test]
    fn event_ids_tell_their_server() {
        for own in ["0", "3/0", "a.b", "\u{e9}"] {
            assert_eq!(own_event_id(&event_id(MEMBER, own)), Some((MEMBER, own)));
        }
        for foreign in
            ["", ".", "7", "00ab0102", "00ab0102.", "00AB0102.7", "+0ab0102.7", "0ab0102.7"]
        {
            assert_eq!(own_event_id(foreign), None, "{foreign}");
        }
        assert_eq!(own_event_id(&event_id(MEMBER, &"x".repeat(1025))), None);
    }
}
