//! Client certificates that prove a caller: `identity.certificates`.

use serde_json::Value;

use super::listeners::Listener;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::shape::{Field, Scalar, shape};

/// How a client certificate proves a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// What of it names the caller.
    pub caller: CertificateName,
    /// The header, in lower case, in which a trusted proxy says whose certificate it has checked.
    pub header: Option<String>,
}

/// What of a certificate names its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The first URI of the subject's alternative names, as SPIFFE has it.
    SanUri,
    /// The first DNS name of the subject's alternative names.
    SanDns,
    /// The common name of the subject.
    CommonName,
}

shape! {
    /// How a client certificate proves a caller that sends no token.
    CertificatesText {
        /// What of it names the caller: san_uri, san_dns or common_name.
        optional caller: CertificateName,
        /// The header in which trusted_proxies of a listener say whose certificate they have checked; none is believed by default.
        optional header: HeaderName,
    }
}

const NAMES: &[(&str, CertificateName)] = &[
    ("san_uri", CertificateName::SanUri),
    ("san_dns", CertificateName::SanDns),
    ("common_name", CertificateName::CommonName),
];

impl Scalar for CertificateName {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, NAMES)
    }

    fn schema() -> Value {
        choice_schema(NAMES)
    }
}

/// The name of a header field.
#[derive(Debug, Clone)]
pub(super) struct HeaderName(String);

impl Scalar for HeaderName {
    const NAME: &'static str = "a header";

    fn parse(text: &str) -> Result<Self, Fault> {
        let name = text.to_ascii_lowercase();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let taken = ["authorization", "cookie", "host", "origin", "x-forwarded-for"];
        if name.is_empty() || !name.bytes().all(allowed) || taken.contains(&name.as_str()) {
            let hint = "write it like x-forwarded-client-cert";
            return Err(Fault::new("this is not the name of such a header", hint));
        }
        Ok(Self(name))
    }
}

impl CertificatesText {
    pub(super) fn check(
        self,
        head: Place,
        listeners: &[Listener],
        reading: &mut Reading<'_>,
    ) -> Certificates {
        let Self { caller, header } = self;
        let shown =
            |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
        let told = |listener: &Listener| !listener.trusted_proxies.is_empty();
        if let Some(header) = header.as_given().filter(|_| !listeners.iter().any(told)) {
            reading.problem(
                header.head,
                "nobody is believed to say this: no listener has trusted proxies",
                "add `trusted_proxies` to a listener, or remove the header",
            );
        }
        if matches!(header, Field::Absent) && !listeners.iter().any(shown) {
            reading.problem(
                head,
                "no listener asks for certificates",
                "add `client_ca` to the `tls` of a listener, or name the `header` of a trusted proxy",
            );
        }
        Certificates {
            caller: caller.or(CertificateName::SanUri),
            header: header.value().map(|header| header.0),
        }
    }
}
