//! Protocol Buffers as bytes: the few forms of field that OTLP is made of, written in one pass.

/// How the value of a field stands on the wire.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;
/// A text that is longer is cut: names and URIs come from strangers.
const TEXT_BYTES_MAX: usize = 1024;

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(i64),
}

/// Writes a number.
pub(super) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

/// Writes 32 bits.
pub(super) fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    key(out, field, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes 64 bits.
pub(super) fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a floating-point number.
pub(super) fn double(out: &mut Vec<u8>, field: u32, value: f64) {
    fixed64(out, field, value.to_bits());
}

/// Writes bytes.
pub(super) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes text, unless it is empty, which is the same.
pub(super) fn text(out: &mut Vec<u8>, field: u32, value: &str) {
    if !value.is_empty() {
        bytes(out, field, cut(value).as_bytes());
    }
}

/// Writes a message. Its length stands before it and is known after it; most messages are shorter
/// than 128 bytes, and then the one byte that is kept for it is enough.
pub(super) fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, LENGTH);
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    match u8::try_from(length).ok().filter(|length| *length < 0x80) {
        Some(short) => out[at] = short,
        None => {
            let mut long = Vec::with_capacity(10);
            varint(&mut long, length as u64);
            out.splice(at..=at, long);
        }
    }
}

/// Writes an attribute; one without a value is left out.
pub(super) fn attribute(out: &mut Vec<u8>, field: u32, name: &str, value: Value<'_>) {
    if matches!(value, Value::Text("")) {
        return;
    }
    message(out, field, |out| {
        text(out, 1, name);
        message(out, 2, |out| match value {
            Value::Text(value) => text(out, 1, value),
            // Negative numbers have ten bytes, as the format wants it.
            Value::Number(value) => number(out, 3, value.cast_unsigned()),
        });
    });
}

/// The number in the first field of the message in the first field: how much of a request a
/// collector did not take, though it took the rest.
pub(super) fn rejected(answer: &[u8]) -> Option<u64> {
    let partial = first(answer, LENGTH)?;
    let length = usize::try_from(read_varint(partial)?.0).ok()?;
    let partial = partial.get(read_varint(partial)?.1..)?.get(..length)?;
    Some(read_varint(first(partial, VARINT)?)?.0)
}

/// What follows the key of the first field, if that field is what the message begins with.
fn first(message: &[u8], form: u32) -> Option<&[u8]> {
    message.strip_prefix(&[(1 << 3 | form) as u8])
}

fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, place + 1));
        }
    }
    None
}

fn key(out: &mut Vec<u8>, field: u32, form: u32) {
    varint(out, u64::from(field << 3 | form));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::Value;
    use super::{TEXT_BYTES_MAX, attribute, message, number, rejected, text};

    #[test]
    fn messages_have_their_length_before_them() {
        // The example of the format's own documentation: field 1 is 150.
        let mut out = Vec::new();
        number(&mut out, 1, 150);
        assert_eq!(out, [0x08, 0x96, 0x01]);
        for length in [0, 1, 120, 127, 128, 300, 20_000] {
            let mut out = Vec::new();
            message(&mut out, 3, |out| out.resize(out.len() + length, 7));
            let mut expected = vec![0x1a];
            match length {
                0..128 => expected.push(length as u8),
                128..16_384 => expected.extend([length as u8 | 0x80, (length >> 7) as u8]),
                _ => expected.extend([
                    length as u8 | 0x80,
                    (length >> 7) as u8 | 0x80,
                    (length >> 14) as u8,
                ]),
            }
            expected.resize(expected.len() + length, 7);
            assert_eq!(out, expected, "{length}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters_and_none_is_left_out() {
        let mut out = Vec::new();
        text(&mut out, 1, &"€".repeat(TEXT_BYTES_MAX));
        assert_eq!(out.len() - 3, TEXT_BYTES_MAX / 3 * 3);
        assert!(std::str::from_utf8(&out[3..]).is_ok());
        let mut out = Vec::new();
        text(&mut out, 1, "");
        attribute(&mut out, 9, "a", Value::Text(""));
        assert!(out.is_empty());
    }

    #[test]
    fn what_a_collector_did_not_take_is_read() {
        let mut answer = Vec::new();
        message(&mut answer, 1, |out| {
            number(out, 1, 300);
            text(out, 2, "why");
        });
        assert_eq!(rejected(&answer), Some(300));
        for none in [&[][..], b"garbage", &[0x0a], &[0x0a, 0x05], &[0x0a, 0x00], &[0xff; 30]] {
            assert_eq!(rejected(none), None, "{none:?}");
        }
    }
}
