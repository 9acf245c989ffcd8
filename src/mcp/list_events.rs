//! Filters the lists among the events of a stream; every other event passes untouched as it comes.

use super::events::EventScan;
use super::lists::{Shows, filter_list};
use super::verdict::Lists;
use super::{BrokenList, Era};

/// The events of one stream on their way to a caller who may not see everything.
///
/// The part of an event that is not over is held as long as its message may be a list. A client does
/// nothing with such a part either, so nobody waits for longer.
#[derive(Debug)]
pub struct ListEvents {
    scan: EventScan,
    /// What is here of the event that is not over, if it is not passed on yet.
    held: Vec<u8>,
    /// Whether the event that is not over has been passed on as far as it is here.
    is_released: bool,
    /// Whether the first event of the stream, which may begin with a byte order mark, is not over.
    is_first: bool,
    bytes_max: usize,
    era: Era,
}

/// What becomes of a part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Passed {
    /// It passes as it is.
    Whole,
    /// These bytes pass in its place; they may be none.
    Instead(Vec<u8>),
    /// These bytes pass, and are the last: they end between two events, but for `Late`.
    Ends(Vec<u8>, ListFault),
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFault {
    /// An event that may be a list is larger than may be held.
    TooLarge,
    /// A list cannot be read.
    Broken,
    /// An event turned out to be a list after it was told from one; a part of it has passed.
    Late,
}

impl ListEvents {
    /// Filters a stream of an exchange of this era, holding at most so many bytes of an event.
    pub fn new(era: Era, bytes_max: usize) -> Self {
        Self {
            scan: EventScan::default(),
            held: Vec::new(),
            is_released: false,
            is_first: true,
            bytes_max,
            era,
        }
    }

    /// The stream goes on elsewhere; what is held of an event will never be whole.
    pub fn restart(&mut self) {
        *self = Self::new(self.era, self.bytes_max);
    }

    /// Takes the next part of the stream. Every list in it is `heard` as the server sent it, once it
    /// is whole and before anything of it passes.
    pub fn pass(&mut self, part: &[u8], shows: &dyn Shows, heard: &mut dyn FnMut(&[u8])) -> Passed {
        let mut out = Vec::new();
        let (mut at, mut copied, mut differs) = (0, 0, false);
        while at < part.len() {
            let begin = at;
            let (read, over) = self.scan.next(&part[at..]);
            at += read;
            let is_released = self.is_released;
            let lists = over.map_or_else(|| self.scan.lists(), |event| event.lists);
            if is_released {
                self.is_released = over.is_none();
                let is_late = over.map_or_else(|| self.scan.has_list(), |event| event.has_list);
                if is_late {
                    out.extend_from_slice(&part[copied..begin]);
                    return Passed::Ends(out, ListFault::Late);
                }
                continue;
            }
            let must_hold = over.is_none() && lists != Lists::No && !self.scan.precedes_payload();
            if must_hold || lists == Lists::Yes {
                out.extend_from_slice(&part[copied..begin]);
                (copied, differs) = (at, true);
                self.held.extend_from_slice(&part[begin..at]);
                if self.held.len() > self.bytes_max {
                    out.extend(id_of(&self.held));
                    return Passed::Ends(out, ListFault::TooLarge);
                }
                if over.is_some() {
                    let event = std::mem::take(&mut self.held);
                    match filter_event(&event, self.is_first, self.era, shows, heard) {
                        Ok(Some(filtered)) => out.extend(filtered),
                        Ok(None) => out.extend(event),
                        Err(BrokenList) => {
                            out.extend(id_of(&event));
                            return Passed::Ends(out, ListFault::Broken);
                        }
                    }
                }
            } else {
                if !self.held.is_empty() {
                    // Only the first event of a part can have been held.
                    differs = true;
                    out.append(&mut self.held);
                }
                self.is_released = over.is_none() && !self.scan.precedes_payload();
            }
            self.is_first &= over.is_none();
        }
        if !differs {
            return Passed::Whole;
        }
        out.extend_from_slice(&part[copied..]);
        Passed::Instead(out)
    }
}

/// The event with its list filtered, and all its lines but those of data as they were.
fn filter_event(
    event: &[u8],
    is_first: bool,
    era: Era,
    shows: &dyn Shows,
    heard: &mut dyn FnMut(&[u8]),
) -> Result<Option<Vec<u8>>, BrokenList> {
    let mark: &[u8] = match is_first && event.starts_with(b"\xef\xbb\xbf") {
        true => &event[..3],
        false => &[],
    };
    let lines = || Lines(&event[mark.len()..]);
    let data: Vec<&[u8]> = lines().filter_map(|(line, _)| value(line, b"data")).collect();
    let message = data.join(&b'\n');
    let filtered = filter_list(&message, era, shows)?;
    heard(&message);
    let Some(filtered) = filtered else { return Ok(None) };
    let mut out = mark.to_vec();
    let mut is_said = false;
    for (line, end) in lines() {
        if value(line, b"data").is_none() {
            out.extend_from_slice(line);
            out.extend_from_slice(end);
        } else if !is_said {
            is_said = true;
            for line in filtered.split(|byte| *byte == b'\n') {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(line);
                out.extend_from_slice(end);
            }
        }
    }
    Ok(Some(out))
}

/// What is left of an event that does not pass: its id, if it is here, so that a client which comes
/// back asks for what follows it and not for the same again. An event without data says nothing.
fn id_of(event: &[u8]) -> Vec<u8> {
    let whole = Lines(event).filter(|(_, end)| !end.is_empty());
    let id = whole.filter(|(line, _)| value(line, b"id").is_some()).last();
    id.map_or_else(Vec::new, |(line, _)| [line, b"\n\n"].concat())
}

/// The lines of an event, each with what ends it.
struct Lines<'e>(&'e [u8]);

impl<'e> Iterator for Lines<'e> {
    type Item = (&'e [u8], &'e [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\n', b'\r', self.0).unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        let ending = match rest {
            [b'\r', b'\n', ..] => 2,
            _ => rest.len().min(1),
        };
        let (ending, rest) = rest.split_at(ending);
        self.0 = rest;
        Some((line, ending))
    }
}

/// The value of the field of this name, if the line is one.
fn value<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ListEvents, ListFault, Passed};
    use crate::mcp::{Annotations, Era, Listed, Shows};

    /// Shows what does not begin with `secret`.
    struct Discreet;

    impl Shows for Discreet {
        fn shows(&self, _: Listed, name: &str, _: Option<&Annotations>) -> bool {
            !name.starts_with("secret")
        }
    }

    /// What passes of a stream in these parts, and why it ended if it did.
    fn pass(parts: &[&[u8]], bytes_max: usize) -> (String, Option<ListFault>) {
        let mut events = ListEvents::new(Era::Legacy, bytes_max);
        let mut out = Vec::new();
        for part in parts {
            match events.pass(part, &Discreet, &mut |_| {}) {
                Passed::Whole => out.extend_from_slice(part),
                Passed::Instead(instead) => out.extend(instead),
                Passed::Ends(last, fault) => {
                    out.extend(last);
                    return (String::from_utf8(out).expect("text"), Some(fault));
                }
            }
        }
        (String::from_utf8(out).expect("text"), None)
    }

    /// However a stream is cut, the same passes.
    fn check(stream: &str, expected: &str) {
        let bytes = stream.as_bytes();
        for size in [bytes.len(), 1, 2, 3, 5, 8, 13, 40] {
            let parts: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(pass(&parts, 4096), (expected.to_owned(), None), "in parts of {size}");
        }
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(pass(&[first, second], 4096).0, expected, "cut at {cut}");
        }
    }

    const LIST: &str = r#"{"id":1,"result":{"tools":[{"name":"a"},{"name":"secret"}]}}"#;
    const SHOWN: &str = r#"{"id":1,"result":{"tools":[{"name":"a"}]}}"#;
    const TOLD: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;

    #[test]
    fn only_lists_are_touched_in_every_form_of_a_stream() {
        for end in ["\n", "\r\n", "\r"] {
            for (list, shown) in [
                ("data: L|", "data: S|"),
                ("data:L|", "data: S|"),
                ("event: message|id: 7|data: L||", "event: message|id: 7|data: S||"),
                ("data: L|id: 3/0|retry: 3000|", "data: S|id: 3/0|retry: 3000|"),
                (": a comment|data: |data: L|data|", ": a comment|data: |data: S|data: |"),
            ] {
                let write = |text: &str| {
                    let text = text.replace('|', end).replace('L', LIST).replace('S', SHOWN);
                    let told = format!("id: 0{end}data:{end}{end}data: {TOLD}{end}{end}");
                    format!(
                        "{told}{text}{end}{told}: ping{end}{end}data: {{\"id\":2,\"result\":{{}}}}{end}{end}"
                    )
                };
                check(&write(list), &write(shown));
                check(&format!("\u{feff}{}", write(list)), &format!("\u{feff}{}", write(shown)));
            }
        }
        check(
            "data: {\"id\":1,\"result\":{\"tools\":\ndata: [{\"name\":\"secret\"}],\ndata: \"a\":1}}\n\n",
            "data: {\"id\":1,\"result\":{\"tools\":\ndata: [],\ndata: \"a\":1}}\n\n",
        );
    }

    #[test]
    fn nothing_is_held_that_cannot_be_a_list() {
        let mut events = ListEvents::new(Era::Legacy, 100);
        let long = "x".repeat(300);
        for part in [
            "id: 5\n",
            ": ping\n",
            "data: {\"method\":\"notifications/message\",\"params\":{",
            &long,
            "}}\n\n",
            &format!("data: {{\"id\":1,\"result\":{{\"content\":[\"{long}"),
            "\"]}}\n\n: ping\n\n",
            &format!("data: {TOLD}\n\n"),
            &format!("data: {{\"id\":1,\"error\":{{\"message\":\"{long}\"}}}}\n\n"),
        ] {
            assert_eq!(
                events.pass(part.as_bytes(), &Discreet, &mut |_| {}),
                Passed::Whole,
                "{part}"
            );
        }
        let begun = format!("data: {TOLD}\n\ndata: {{\"id\":1");
        let passes = format!("data: {TOLD}\n\n").into_bytes();
        assert_eq!(events.pass(begun.as_bytes(), &Discreet, &mut |_| {}), Passed::Instead(passes));
        let rest = b",\"result\":{}}\n\n";
        let whole = [b"data: {\"id\":1", &rest[..]].concat();
        assert_eq!(events.pass(rest, &Discreet, &mut |_| {}), Passed::Instead(whole));
        assert_eq!(
            events.pass(b"data: {\"id\"", &Discreet, &mut |_| {}),
            Passed::Instead(Vec::new())
        );
        events.restart();
        let told = format!("data: {TOLD}\n\n");
        assert_eq!(events.pass(told.as_bytes(), &Discreet, &mut |_| {}), Passed::Whole);
    }

    #[test]
    fn lists_are_heard_whole_and_as_they_were_sent() {
        let untouched = r#"{"id":4,"result":{"tools":[{"name":"a"}]}}"#;
        let (first, second) = LIST.split_at(LIST.find('[').expect("a list"));
        let stream = format!(
            "data: {TOLD}\n\nid: 1\ndata: {LIST}\n\ndata: {{\"id\":2,\"result\":{{}}}}\n\ndata: {first}\ndata: {second}\n\ndata: {untouched}\n\ndata: {LIST}"
        );
        for size in [1, 7, stream.len()] {
            let mut events = ListEvents::new(Era::Legacy, 4096);
            let mut heard = Vec::new();
            for part in stream.as_bytes().chunks(size) {
                let passed = events.pass(part, &Discreet, &mut |list| {
                    // Two lines of data are one text with a line break between them.
                    heard.push(String::from_utf8_lossy(list).replace('\n', ""));
                });
                assert!(!matches!(passed, Passed::Ends(..)), "{passed:?}");
            }
            assert_eq!(heard, [LIST, LIST, untouched], "in parts of {size}");
        }
    }

    #[test]
    fn what_cannot_be_filtered_does_not_pass() {
        let names = r#"{"name":"secret"},"#.repeat(300);
        let told = format!("data: {TOLD}\n\n");
        for (event, fault) in [
            (format!("data: {{\"result\":{{\"tools\":[{names}"), ListFault::TooLarge),
            (format!("data: {{\"result\":{{\"tools\":[{names}]}}}}\n\n"), ListFault::TooLarge),
            (format!("data: {{\"a\":\"{names}"), ListFault::TooLarge),
            (
                "data: {\"result\":{\"tools\":[{\"name\":\"secret\"},]}}\n\n".into(),
                ListFault::Broken,
            ),
            ("data: {\"result\":{\"tools\":[{\"name\":\"secret\"}]}\n\n".into(), ListFault::Broken),
            ("data: {\"a\":NaN,\"result\":{\"tools\":[]}}\n\n".into(), ListFault::Broken),
        ] {
            for size in [usize::MAX, 1, 7] {
                let stream = format!("{told}id: 9\n{event}");
                let parts: Vec<&[u8]> = stream.as_bytes().chunks(size.min(stream.len())).collect();
                let (passed, found) = pass(&parts, 4096);
                assert_eq!(found, Some(fault), "{event}");
                assert!(!passed.contains("secret") && passed.contains("id: 9\n"), "{passed}");
                assert!(passed.ends_with("\n\n") || size < 8, "{passed}");
            }
        }
        let late =
            [&b"data: {\"method\":\"x\","[..], b"\"result\":{\"tools\":[{\"name\":\"secret\"}"];
        assert_eq!(pass(&late, 4096).1, Some(ListFault::Late));
    }
}
