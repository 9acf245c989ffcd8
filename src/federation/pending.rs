//! Bytes that were read and not passed on, because it is not known yet how they read.

use crate::mcp::{Edit, edited};

/// A part of something whose places count from its first byte.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    /// The place of the first of them: what stood before was passed on.
    pub(super) at: usize,
    /// In their order.
    pub(super) edits: Vec<Edit>,
}

impl Pending {
    /// Keeps an edit that was found.
    pub(super) fn edit(&mut self, edit: Edit) {
        let at = self.edits.partition_point(|other| other.place.start <= edit.place.start);
        self.edits.insert(at, edit);
    }

    /// Passes on what stands before this place, as it reads.
    pub(super) fn release(&mut self, settled: usize, out: &mut Vec<u8>) {
        let count = settled.saturating_sub(self.at).min(self.bytes.len());
        let settled = self.at + count;
        let now = self.edits.partition_point(|edit| edit.place.end <= settled);
        let later = self.edits.split_off(now);
        let rest = self.bytes.split_off(count);
        match self.edits.is_empty() {
            true => out.extend_from_slice(&self.bytes),
            false => out.extend(edited(&self.bytes, &self.edits, self.at)),
        }
        (self.bytes, self.at, self.edits) = (rest, settled, later);
    }
}
