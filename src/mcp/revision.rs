//! The revisions of the protocol and the two eras they fall into; the only place that asks which era.

use std::fmt;

/// A published revision that the gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Revision {
    /// 2024-11-05, the two-endpoint transport; still negotiated over Streamable HTTP.
    V2024_11_05 = 1,
    /// 2025-03-26, the first Streamable HTTP.
    V2025_03_26 = 2,
    /// 2025-06-18, which brought the version header.
    V2025_06_18 = 3,
    /// 2025-11-25, the last revision with sessions.
    V2025_11_25 = 4,
    /// 2026-07-28, stateless.
    V2026_07_28 = 5,
}

/// How a request is spoken: with sessions, or stateless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// Up to 2025-11-25: `initialize`, sessions, the GET stream.
    Legacy,
    /// From 2026-07-28: every request stands alone.
    Modern,
}

impl Revision {
    /// Every known revision, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];

    /// The revision with this name, if the gateway knows it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == name)
    }

    /// The revision's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era this revision belongs to.
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }

    /// The revision behind a number that `self as u8` gave.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| *revision as u8 == byte)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Era {
    /// The era's name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Era, Revision};

    #[test]
    fn names_bytes_and_eras_agree() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
            assert_eq!(Revision::from_byte(revision as u8), Some(revision));
        }
        assert_eq!(Revision::parse("2027-01-01"), None);
        assert_eq!(Revision::from_byte(0), None);
        assert_eq!(Revision::V2025_11_25.era(), Era::Legacy);
        assert_eq!(Revision::V2026_07_28.era(), Era::Modern);
    }
}
