//! Client certificates: checked by TLS, or by a proxy that is trusted to say so in a header.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};
use serde_json::Map;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Unproven;
use super::caller::{Caller, Method, Proven};
use super::claims::is_name;
use crate::config::{CertificateName, Certificates};

/// How many certificates are remembered.
const CALLERS_MAX: usize = 8 * 1024;
/// What a proxy says in a header is not longer.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// The certificate of a connection, which TLS has checked: read once, when the handshake is done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    fingerprint: [u8; 32],
    uri: Option<String>,
    dns: Option<String>,
    common_name: Option<String>,
}

/// What a request shows of a certificate.
#[derive(Clone, Copy)]
pub enum Shown<'a> {
    /// Its connection has one.
    ByConnection(&'a PeerCertificate),
    /// A trusted proxy says of one that it has checked it: Envoy's `X-Forwarded-Client-Cert`, or the
    /// certificate itself (RFC 9440).
    ByProxy(&'a [u8]),
}

impl fmt::Debug for Shown<'_> {
    /// Without what is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByConnection(_) => "ByConnection(..)",
            Self::ByProxy(_) => "ByProxy(..)",
        })
    }
}

/// The callers behind certificates.
pub(super) struct Holders {
    settings: Certificates,
    /// By fingerprint, or by what the proxy said.
    callers: Cache<Box<[u8]>, Arc<Caller>>,
}

impl PeerCertificate {
    /// Reads a certificate in DER.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut read = Self::default();
        read.fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
        let names = certificate.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let (place, text) = match name {
                GeneralName::URI(uri) => (&mut read.uri, uri),
                GeneralName::DNSName(dns) => (&mut read.dns, dns),
                _ => continue,
            };
            place.get_or_insert_with(|| (*text).to_owned());
        }
        let mut common_names = certificate.subject().iter_common_name();
        read.common_name = match (common_names.next(), common_names.next()) {
            (Some(name), None) => name.as_str().ok().map(str::to_owned),
            // Of two nobody knows which is meant.
            _ => None,
        };
        Some(read)
    }

    fn name(self, wanted: CertificateName) -> Option<String> {
        match wanted {
            CertificateName::SanUri => self.uri,
            CertificateName::SanDns => self.dns,
            CertificateName::CommonName => self.common_name,
        }
    }

    fn named(&self, wanted: CertificateName) -> Option<&str> {
        match wanted {
            CertificateName::SanUri => self.uri.as_deref(),
            CertificateName::SanDns => self.dns.as_deref(),
            CertificateName::CommonName => self.common_name.as_deref(),
        }
    }
}

impl Holders {
    pub(super) fn new(settings: Certificates) -> Self {
        Self { settings, callers: Cache::new(CALLERS_MAX) }
    }

    /// The header in which proxies speak of certificates.
    pub(super) fn header(&self) -> Option<&str> {
        self.settings.header.as_deref()
    }

    /// Who shows this. A certificate that names nobody proves nobody.
    pub(super) fn find(&self, shown: Shown<'_>) -> Result<Arc<Caller>, Unproven> {
        let key: &[u8] = match shown {
            Shown::ByConnection(certificate) => &certificate.fingerprint,
            Shown::ByProxy(said) if said.len() <= HEADER_BYTES_MAX => said,
            Shown::ByProxy(_) => return Err(Unproven::Invalid),
        };
        if let Some(caller) = self.callers.get(key) {
            return Ok(caller);
        }
        let wanted = self.settings.caller;
        let name = match shown {
            Shown::ByConnection(certificate) => certificate.named(wanted).map(str::to_owned),
            Shown::ByProxy(said) => {
                std::str::from_utf8(said).ok().and_then(|said| said_of(said, wanted))
            }
        };
        let id = name.filter(|name| is_name(name)).ok_or(Unproven::Invalid)?;
        let caller = Arc::new(Caller::new(Proven {
            id,
            issuer: None,
            tenant: None,
            scopes: Vec::new(),
            claims: Map::new(),
            method: Method::Certificate,
        }));
        self.callers.insert(key.into(), Arc::clone(&caller));
        Ok(caller)
    }
}

/// The name in what a proxy says.
fn said_of(said: &str, wanted: CertificateName) -> Option<String> {
    let said = said.trim();
    // RFC 9440: the certificate as a byte sequence of structured fields.
    if let Some(encoded) = said.strip_prefix(':') {
        let der = STANDARD.decode(encoded.strip_suffix(':')?).ok()?;
        return PeerCertificate::read(&der)?.name(wanted);
    }
    let element = elements(said)?;
    let key = match wanted {
        CertificateName::SanUri => "URI",
        CertificateName::SanDns => "DNS",
        CertificateName::CommonName => "Subject",
    };
    let value = element.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?.1;
    match wanted {
        CertificateName::CommonName => common_name(&value),
        CertificateName::SanUri | CertificateName::SanDns => Some(value),
    }
}

/// The pairs of the one element of `X-Forwarded-Client-Cert`. With several elements the proxies in
/// front speak of each other, and nobody knows who the client is.
fn elements(said: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = said;
    loop {
        let (name, value) = rest.split_once('=')?;
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = value.find([';', ',']).unwrap_or(value.len());
                (value[..end].trim_end().to_owned(), &value[end..])
            }
        };
        pairs.push((name.trim().to_owned(), value));
        match after.trim_start().strip_prefix(';') {
            Some(more) => rest = more,
            None if after.trim().is_empty() => return Some(pairs),
            None => return None,
        }
    }
}

/// A quoted text up to its end, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// The one common name of a subject as RFC 4514 writes it, or OpenSSL of old: with a slash before each
/// part. One that needs escapes is not taken apart.
fn common_name(subject: &str) -> Option<String> {
    if subject.contains(['\\', '"', '+', '#']) {
        return None;
    }
    let sign = if subject.starts_with('/') { '/' } else { ',' };
    let named = |part: &'_ str| {
        let (kind, value) = part.split_once('=')?;
        kind.trim().eq_ignore_ascii_case("CN").then(|| value.trim().to_owned())
    };
    let mut names = subject.split(sign).filter_map(named);
    names.next().filter(|_| names.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::{Holders, PeerCertificate, STANDARD, Shown};
    use crate::config::CertificateName::{self, CommonName, SanDns, SanUri};
    use crate::config::Certificates;
    use crate::identity::{Credential, Unproven};
    use base64::Engine as _;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn holders(caller: CertificateName) -> Holders {
        Holders::new(Certificates { caller, header: None })
    }

    fn der(uri: Option<&str>) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["ann.example".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "Ann");
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    fn found(holders: &Holders, shown: Shown<'_>) -> Result<String, Unproven> {
        holders.find(shown).map(|caller| caller.id().to_owned())
    }

    #[test]
    fn a_certificate_names_its_holder() {
        let spiffe = "spiffe://example.org/ann";
        let with = PeerCertificate::read(&der(Some(spiffe))).expect("a certificate");
        let without = PeerCertificate::read(&der(None)).expect("a certificate");
        for (caller, expected) in [(SanUri, spiffe), (SanDns, "ann.example"), (CommonName, "Ann")] {
            let holders = holders(caller);
            for _ in 0..2 {
                let named = found(&holders, Shown::ByConnection(&with));
                assert_eq!(named.as_deref(), Ok(expected));
            }
        }
        let nobody = found(&holders(SanUri), Shown::ByConnection(&without));
        assert_eq!(nobody, Err(Unproven::Invalid));
        assert_eq!(PeerCertificate::read(b"no certificate"), None);
        assert_eq!(PeerCertificate::read(b""), None);
    }

    #[test]
    fn what_is_shown_is_never_printed() {
        let certificate = Some(Shown::ByProxy(b"URI=spiffe://o/ann"));
        let credential = Credential { authorization: Some(b"Bearer s3cret"), certificate };
        let printed = format!("{credential:?}");
        assert_eq!(printed, "Credential { authorization: true, certificate: Some(ByProxy(..)) }");
    }

    #[test]
    fn what_a_proxy_says_names_one_holder_or_none() {
        let whole = format!(":{}:", STANDARD.encode(der(Some("spiffe://o/ann"))));
        let rows = [
            (SanUri, "By=spiffe://o/gw;Hash=ab;URI=spiffe://o/ann", Some("spiffe://o/ann")),
            (SanUri, "Hash=ab;uri=\"spiffe://o/ann;a,b\"", Some("spiffe://o/ann;a,b")),
            (SanDns, "Hash=ab;DNS=ann.example;DNS=bob.example", Some("ann.example")),
            (CommonName, "Subject=\"CN=Ann,O=Acme\";URI=x", Some("Ann")),
            (CommonName, "Subject=\"/O=Acme/CN=Ann\"", Some("Ann")),
            (CommonName, "Subject=\"O=a\\\\,CN=Bob,CN=Ann\"", None),
            (CommonName, "Subject=\"O=Acme\"", None),
            (CommonName, "Subject=\"CN=host/ann,O=a/CN=bob\"", Some("host/ann")),
            (CommonName, "Subject=\"O=a/CN=bob,CN=ann\"", Some("ann")),
            (CommonName, "Subject=\"O=a/CN=bob\"", None),
            (CommonName, "Subject=\"/O=a,CN=bob/CN=ann\"", Some("ann")),
            (CommonName, "Subject=\"/CN=bob/CN=ann\"", None),
            (CommonName, "Subject=\"CN=ann, cn = bob\"", None),
            (CommonName, "Subject=\"CN=\"", None),
            (SanUri, &whole, Some("spiffe://o/ann")),
            (SanUri, "Hash=ab", None),
            (SanUri, "URI=", None),
            (SanUri, "URI=spiffe://o/ann,URI=spiffe://o/bob", None),
            (SanUri, "URI=spiffe://o/ann, By=x;URI=spiffe://o/gw", None),
            (SanUri, "Subject=\"CN=x\\\";URI=spiffe://o/ann", None),
            (SanUri, ":AAAA:", None),
            (SanUri, ":", None),
            (SanUri, "", None),
            (SanUri, "spiffe://o/ann", None),
        ];
        for (caller, said, expected) in rows {
            let named = found(&holders(caller), Shown::ByProxy(said.as_bytes())).ok();
            assert_eq!(named.as_deref(), expected, "{said}");
        }
        let long = format!("URI={}", "a".repeat(20_000));
        let named = found(&holders(SanUri), Shown::ByProxy(long.as_bytes()));
        assert_eq!(named, Err(Unproven::Invalid));
    }
}
