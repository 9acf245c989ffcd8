//! Finds the complete events in what has arrived of an event stream (WHATWG HTML, section 9.2.6).

/// The data of every complete event with data, in order. Only for the few answers that the gateway
/// must read before it passes them on; streams in general pass untouched.
pub fn data_of_events(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    let mut rest = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    while let Some((line, after)) = split_line(rest) {
        rest = after;
        if line.is_empty() {
            events.extend(data.take().filter(|data| !data.is_empty()));
        } else if let Some(value) = field(line, b"data") {
            match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
    }
    events
}

/// Cuts the first line off: lines end with CRLF, LF or CR.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr2(b'\n', b'\r', bytes)?;
    let after = match &bytes[end..] {
        [b'\r', b'\n', ..] => end + 2,
        // A CR at the very end may be half of a CRLF; the line is not known to be over.
        [b'\r'] => return None,
        _ => end + 1,
    };
    Some((&bytes[..end], &bytes[after..]))
}

fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::data_of_events;

    #[test]
    fn events_of_every_sdk_are_found() {
        let rows: &[(&str, &[&str])] = &[
            ("event: message\ndata: {\"a\":1}\n\n", &["{\"a\":1}"]),
            ("id: 1\r\ndata: x\r\n\r\n", &["x"]),
            ("data: \nid: 0/0\nretry: 3000\n\ndata: y\nid: 1/0\n\n", &["y"]),
            ("data:one\ndata: two\n\n", &["one\ntwo"]),
            (": ping\n\n", &[]),
            ("data: not yet\n", &[]),
            ("data: x\r\n\r", &[]),
            ("data: x\r\rdata: y\r\r\n", &["x", "y"]),
            ("datax: no\n\n", &[]),
        ];
        for (stream, expected) in rows {
            let found = data_of_events(stream.as_bytes());
            let expected: Vec<Vec<u8>> =
                expected.iter().map(|data| data.as_bytes().to_vec()).collect();
            assert_eq!(found, expected, "{stream:?}");
        }
    }
}
