//! The end of every line: whose chain it belongs to, what stood before it, and its own digest.

use ring::digest::{Context, SHA256};

use super::text::{Object, write_hex};
use crate::telemetry::write_number;

/// The version of the lines' schema.
pub(super) const SCHEMA: u64 = 1;
/// What stands for the line before the first.
pub(super) const FIRST_PREV: Hash = [b'0'; 64];
/// Hexadecimal digits as JSON shows them.
pub(super) const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Between what a digest is of, and the digest.
const HASH_KEY: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";

/// A SHA-256 digest in hexadecimal digits.
pub(super) type Hash = [u8; 64];

/// The chain of one process: every line holds the digest of the one before it, and its own.
pub(super) struct Chain {
    id: String,
    instance: String,
    seq: u64,
    prev: Hash,
}

impl Chain {
    /// A chain with this id, in which nothing stands yet.
    pub(super) fn new(id: [u8; 16], instance: String) -> Self {
        let mut text = Vec::with_capacity(32);
        write_hex(&mut text, &id);
        let id = String::from_utf8_lossy(&text).into_owned();
        Self { id, instance, seq: 0, prev: FIRST_PREV }
    }

    /// Ends the line that begins at `start` with its place in the chain.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>, start: usize) {
        let mut object = Object::resume(out);
        object.text("gateway.instance", &self.instance, 256);
        object.word("chain", &self.id);
        object.number("seq", self.seq);
        out.extend_from_slice(b",\"prev\":\"");
        out.extend_from_slice(&self.prev);
        out.push(b'"');
        self.prev = hash(&out[start..]);
        out.extend_from_slice(HASH_KEY);
        out.extend_from_slice(&self.prev);
        out.extend_from_slice(END);
        out.push(b'\n');
        self.seq += 1;
    }
}

/// Takes a line apart: what its digest is of, and the digest it claims.
pub(super) fn open(line: &[u8]) -> Option<(&[u8], Hash)> {
    let line = line.strip_suffix(END)?;
    let (rest, claimed) = line.split_last_chunk::<64>()?;
    Some((rest.strip_suffix(HASH_KEY)?, *claimed))
}

/// The digest of what stands before a line's own.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_mut(2).zip(context.finish().as_ref()) {
        pair[0] = HEX_DIGITS[usize::from(byte >> 4)];
        pair[1] = HEX_DIGITS[usize::from(byte & 15)];
    }
    text
}

/// Begins a line: when, by which schema, what.
pub(super) fn begin(out: &mut Vec<u8>, now: std::time::SystemTime, event: &str) {
    out.extend_from_slice(b"{\"ts\":\"");
    crate::telemetry::write_rfc3339(out, now);
    out.extend_from_slice(b"\",\"schema\":");
    write_number(out, SCHEMA);
    Object::resume(out).word("event", event);
}
