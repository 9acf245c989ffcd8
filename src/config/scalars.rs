//! Values written as text: durations, sizes, counts, paths, addresses and words.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::problem::nearest;
use super::reading::Fault;
use super::shape::Scalar;

/// A year: longer waits are a mistake, and stay far from where clocks overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const DURATION_HINT: &str = "write a whole number and a unit: 500ms, 30s, 10m, 24h";
/// A longer name makes metrics and logs unreadable.
const NAME_CHARS_MAX: usize = 64;

/// A number of bytes, at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes(pub(super) usize);

/// How many of something, at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u32);

/// How many of something, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountOrZero(pub(super) u32);

/// A part of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fraction(pub(super) f64);

/// A duration, of which none switches something off.
#[derive(Debug, Clone, Copy)]
pub(super) struct DurationOrZero(pub(super) Duration);

/// A SHA-256 digest.
#[derive(Debug, Clone)]
pub(super) struct Digest(pub(super) [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Count {
    pub(super) fn size(self) -> usize {
        self.0 as usize
    }
}

impl Scalar for Duration {
    const NAME: &'static str = "a duration";

    fn parse(text: &str) -> Result<Self, Fault> {
        match DurationOrZero::parse(text)? {
            DurationOrZero(Self::ZERO) => {
                Err(Fault::new("a duration must be longer than nothing", DURATION_HINT))
            }
            DurationOrZero(duration) => Ok(duration),
        }
    }

    fn schema() -> Value {
        <DurationOrZero as Scalar>::schema()
    }
}

impl Scalar for DurationOrZero {
    const NAME: &'static str = "a duration";

    fn parse(text: &str) -> Result<Self, Fault> {
        let (number, unit) = number_and_unit(text);
        let millis_per_unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err(Fault::new("this is not a duration", DURATION_HINT)),
        };
        let number: u64 =
            number.parse().map_err(|_| Fault::new("this is not a duration", DURATION_HINT))?;
        let duration = Duration::from_millis(number.saturating_mul(millis_per_unit));
        if duration > DURATION_MAX {
            return Err(Fault::new("a duration of more than a year is not allowed", DURATION_HINT));
        }
        Ok(Self(duration))
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^([0-9]+(ms|s|m|h)|.*\$\{.*)$" })
    }
}

impl Scalar for Bytes {
    const NAME: &'static str = "a size";

    fn parse(text: &str) -> Result<Self, Fault> {
        const HINT: &str = "write a whole number and a unit: 512B, 64KiB, 4MiB, 1GiB";
        let (number, unit) = number_and_unit(text);
        let bytes_per_unit = match unit {
            "B" => 1,
            "KiB" => 1024,
            "MiB" => 1024 * 1024,
            "GiB" => 1024 * 1024 * 1024,
            _ => return Err(Fault::new("this is not a size", HINT)),
        };
        let number: usize = number.parse().map_err(|_| Fault::new("this is not a size", HINT))?;
        match number.checked_mul(bytes_per_unit) {
            Some(0) => Err(Fault::new("a size must be more than nothing", HINT)),
            Some(bytes) => Ok(Self(bytes)),
            None => Err(Fault::new("this size is too large", HINT)),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^([0-9]+(B|KiB|MiB|GiB)|.*\$\{.*)$" })
    }
}

impl Scalar for Count {
    const NAME: &'static str = "a number";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(0) => {
                Err(Fault::new("this number must be at least 1", "write a whole number from 1"))
            }
            Ok(number) => Ok(Self(number)),
            Err(_) => Err(Fault::new(
                "this is not a number",
                format!("write a whole number from 1 to {}", u32::MAX),
            )),
        }
    }

    fn schema() -> Value {
        number_schema(1..=u32::MAX)
    }
}

impl Scalar for CountOrZero {
    const NAME: &'static str = "a number";

    fn parse(text: &str) -> Result<Self, Fault> {
        let hint = || format!("write a whole number from 0 to {}", u32::MAX);
        text.parse().map(Self).map_err(|_| Fault::new("this is not a number", hint()))
    }

    fn schema() -> Value {
        number_schema(0..=u32::MAX)
    }
}

impl Scalar for Fraction {
    const NAME: &'static str = "a fraction";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(fraction @ 0.0..=1.0) => Ok(Self(fraction)),
            _ => {
                Err(Fault::new("this is not a fraction", "write a number from 0 to 1, such as 0.5"))
            }
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "type": "number", "minimum": 0, "maximum": 1 }, reference_schema()] })
    }
}

impl Scalar for String {
    const NAME: &'static str = "text";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.trim().is_empty() {
            return Err(Fault::new("this text is empty", "write something, or leave the key out"));
        }
        Ok(text.to_owned())
    }
}

impl Scalar for PathBuf {
    const NAME: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, Fault> {
        String::parse(text).map(Self::from)
    }
}

impl Scalar for SocketAddr {
    const NAME: &'static str = "an address";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|_| {
            let hint = match text.rsplit_once(':') {
                Some(("localhost", port)) => format!("write 127.0.0.1:{port}"),
                Some(("" | "*", port)) => {
                    format!("write 0.0.0.0:{port} for every address, or 127.0.0.1:{port}")
                }
                _ => "write an IP address and a port: 127.0.0.1:8080 or [::1]:8080".to_owned(),
            };
            Fault::new("this is not an address to listen on", hint)
        })
    }
}

impl Scalar for Digest {
    const NAME: &'static str = "a digest";

    fn parse(text: &str) -> Result<Self, Fault> {
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let digest = bytes.collect::<Option<Vec<u8>>>().and_then(|bytes| bytes.try_into().ok());
        digest.map(Self).ok_or_else(|| {
            let hint = "this is the digest, not the secret: printf %s SECRET | sha256sum";
            Fault::new("a SHA-256 digest has 64 hexadecimal digits", hint)
        })
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^([0-9a-fA-F]{64}|.*\$\{.*)$" })
    }
}

/// A duration that no file names, checked as if one did.
///
/// # Errors
/// What is wrong with it, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    <Duration as Scalar>::parse(text).map_err(Fault::into_text)
}

/// The SHA-256 digest that these digits mean.
///
/// # Errors
/// What is wrong with them, in words.
pub fn sha256(text: &str) -> Result<[u8; 32], String> {
    Digest::parse(text).map(|digest| digest.0).map_err(Fault::into_text)
}

/// Whether the text is a name that other settings, metrics and patterns can refer to.
pub(super) fn check_name(text: &str) -> Result<(), Fault> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.bytes().all(allowed) {
        let hint =
            format!("use letters, digits, `_`, `-` and `.`, at most {NAME_CHARS_MAX} in all");
        return Err(Fault::new("this is not a name", hint));
    }
    Ok(())
}

/// The schema of a whole number, which may come from the environment.
pub(super) fn number_schema(range: RangeInclusive<u32>) -> Value {
    let (min, max) = range.into_inner();
    json!({ "anyOf": [{ "type": "integer", "minimum": min, "maximum": max }, reference_schema()] })
}

fn reference_schema() -> Value {
    json!({ "type": "string", "pattern": r"\$\{" })
}

/// Reads one of a few words.
pub(super) fn parse_choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Fault> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let hint = match nearest(text, words.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("write one of: {}", words.join(", ")),
        };
        Fault::new("this is not one of the words known here", hint)
    })
}

/// The schema of one of a few words.
pub(super) fn choice_schema<T>(choices: &[(&str, T)]) -> Value {
    json!({ "enum": choices.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
}

fn number_and_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Duration, Scalar, SocketAddr};

    #[test]
    fn durations_have_a_unit() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(Duration::parse(text).ok(), expected.map(Duration::from_millis), "{text}");
        };
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("10m", Some(600_000));
        check("1h", Some(3_600_000));
        check("24h", Some(86_400_000));
        for bad in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30 s",
            "1d",
            "0s",
            "0ms",
            "9000h",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn sizes_have_a_unit() {
        let check = |text: &str, expected: Option<usize>| {
            assert_eq!(Bytes::parse(text).ok().map(|b| b.0), expected, "{text}")
        };
        check("1B", Some(1));
        check("64KiB", Some(65_536));
        check("4MiB", Some(4_194_304));
        check("1GiB", Some(1_073_741_824));
        for bad in ["", "64", "KiB", "64KB", "64kib", "0KiB", "-1B", "99999999999999GiB"] {
            check(bad, None);
        }
    }

    #[test]
    fn addresses_name_an_ip_address_and_a_port() {
        let check = |text: &str, hint: &str| {
            assert_eq!(SocketAddr::parse(text).unwrap_err().hint.as_deref(), Some(hint), "{text}");
        };
        check("localhost:8080", "write 127.0.0.1:8080");
        check(":8080", "write 0.0.0.0:8080 for every address, or 127.0.0.1:8080");
        check("8080", "write an IP address and a port: 127.0.0.1:8080 or [::1]:8080");
        check("::1:8080:z", "write an IP address and a port: 127.0.0.1:8080 or [::1]:8080");
        assert!(SocketAddr::parse("[::1]:8080").is_ok());
    }
}
