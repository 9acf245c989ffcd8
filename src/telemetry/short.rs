//! Numbers and addresses as text, made on the stack without the machinery of formatting.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest IPv6 address has 45 characters, the longest number 20.
const BYTES_MAX: usize = 45;

/// A short text.
#[derive(Clone, Copy, Debug)]
pub struct Short {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl Short {
    /// A whole number.
    pub fn number(value: u64) -> Self {
        let mut text = Self::empty();
        text.push_number(value);
        text
    }

    /// An address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address),
            IpAddr::V6(address) => Self::v6(address),
        }
    }

    /// The text, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn empty() -> Self {
        Self { bytes: [0; BYTES_MAX], length: 0 }
    }

    fn v4(address: Ipv4Addr) -> Self {
        let mut text = Self::empty();
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                text.push(b'.');
            }
            text.push_number(octet.into());
        }
        text
    }

    /// Which groups of zeros are left out is a matter of its own (RFC 5952).
    fn v6(address: Ipv6Addr) -> Self {
        let mut text = Self::empty();
        let mut rest = &mut text.bytes[..];
        let written = write!(rest, "{address}");
        text.length = if written.is_ok() { BYTES_MAX - rest.len() } else { 0 };
        text
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn push_number(&mut self, mut value: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        let digits = &digits[at..];
        self.bytes[self.length..self.length + digits.len()].copy_from_slice(digits);
        self.length += digits.len();
    }
}

#[cfg(test)]
mod tests {
    use super::Short;
    use std::net::IpAddr;

    #[test]
    fn texts_are_those_of_display() {
        for value in [0, 1, 9, 10, 99, 100, 255, 1234567890, u64::MAX - 1, u64::MAX] {
            assert_eq!(Short::number(value).as_bytes(), value.to_string().as_bytes());
        }
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "255.255.255.255",
            "10.20.30.4",
            "::",
            "::1",
            "2001:db8::8a2e:370:7334",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "::ffff:255.255.255.255",
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(Short::address(address).as_bytes(), address.to_string().as_bytes());
        }
    }
}
