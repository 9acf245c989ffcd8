//! Takes the events of a stream apart while it arrives.

use bytes::{Buf as _, BytesMut};

use crate::mcp::data_of_events;

/// What has arrived of a stream and is not read yet.
#[derive(Default)]
pub(super) struct Events {
    buffer: BytesMut,
    /// Where the line begins that is not over yet.
    line: usize,
    /// Up to where its end was looked for.
    seen: usize,
}

impl Events {
    /// Takes a part of the stream.
    pub(super) fn push(&mut self, part: &[u8]) {
        self.buffer.extend_from_slice(part);
    }

    /// How much waits to be read.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// What the next event with data says, if it is there as a whole.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let event = self.cut()?;
            if let Some(said) = data_of_events(&event).pop() {
                return Some(said);
            }
        }
    }

    /// Cuts off what ends with the next empty line.
    fn cut(&mut self) -> Option<BytesMut> {
        loop {
            let Some(found) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.seen..]) else {
                self.seen = self.buffer.len();
                return None;
            };
            let end = self.seen + found;
            let after = match &self.buffer[end..] {
                [b'\r', b'\n', ..] => end + 2,
                // It may be half of a CRLF.
                [b'\r'] => {
                    self.seen = end;
                    return None;
                }
                _ => end + 1,
            };
            let is_empty = end == self.line;
            (self.line, self.seen) = (after, after);
            if is_empty {
                (self.line, self.seen) = (0, 0);
                let mut event = self.buffer.split_to(after);
                if event.ends_with(b"\r") {
                    // What follows shows that it is whole; alone it could be half of a CRLF.
                    event.extend_from_slice(b"\n");
                }
                if !self.buffer.has_remaining() {
                    // A stream that idles holds nothing.
                    self.buffer = BytesMut::new();
                }
                return Some(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Events;

    #[test]
    fn events_are_the_same_however_they_arrive() {
        let stream = b": ping\n\ndata: \nid: 0\n\nevent: message\r\ndata: {\"a\":1}\r\n\r\ndata: x\rdata: y\r\rdata: z\n\ndata: not yet\n";
        for step in [1, 2, 3, 7, stream.len()] {
            let mut events = Events::default();
            let mut said = Vec::new();
            for part in stream.chunks(step) {
                events.push(part);
                said.extend(std::iter::from_fn(|| events.next()));
            }
            let said: Vec<_> = said.iter().map(|said| String::from_utf8_lossy(said)).collect();
            assert_eq!(said, ["{\"a\":1}", "x\ny", "z"], "in steps of {step}");
            assert_eq!(events.len(), "data: not yet\n".len());
        }
    }
}
