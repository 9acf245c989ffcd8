//! The JSON body of an answer on its way to a client, passed on as it comes.

use super::events::Passing;
use super::message::Passage;
use super::pending::Pending;
use crate::mcp::{EditScan, Unfit};

/// One JSON body, of which no more is held than what is not known yet how it reads.
#[derive(Debug)]
pub struct BodyToClient {
    bytes_max: usize,
    scan: EditScan,
    seen: usize,
    held: Pending,
}

impl BodyToClient {
    /// A body on this way, at most so many bytes of which are held.
    pub fn new(passage: &Passage<'_>, bytes_max: usize) -> Self {
        let scan = EditScan::new(passage.sought());
        Self { bytes_max, scan, seen: 0, held: Pending::default() }
    }

    /// Takes the next part. After a fault the body cannot go on.
    pub fn pass(&mut self, part: &[u8], passage: &Passage<'_>) -> Result<Passing, Unfit> {
        self.scan.feed(part, self.seen, passage)?;
        self.seen += part.len();
        for edit in self.scan.take_edits() {
            self.held.edit(edit);
        }
        let settled = self.scan.settled(self.seen);
        if settled == self.seen && self.held.bytes.is_empty() && self.held.edits.is_empty() {
            self.held.at = self.seen;
            return Ok(Passing::Whole);
        }
        let mut out = Vec::new();
        self.held.bytes.extend_from_slice(part);
        self.held.release(settled, &mut out);
        if self.held.bytes.len() > self.bytes_max {
            return Err(Unfit::TooLarge);
        }
        Ok(Passing::Instead(out))
    }

    /// The end of the body: whether it was one.
    pub fn finish(self) -> Result<(), Unfit> {
        match self.scan.is_over() {
            true => Ok(()),
            false => Err(Unfit::Truncated),
        }
    }
}
