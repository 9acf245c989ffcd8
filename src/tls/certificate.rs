//! One certificate of a listener with its key, and what it says of itself.

use std::sync::Arc;

use pingora::tls::sign::CertifiedKey;
use pingora::tls::{CryptoProvider, RusTlsError};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Fault;
use super::blocks::{certificates, private_key};
use crate::config;

const HINT: &str = "give a chain in PEM, the listener's own certificate first, and its private key";

/// A certificate that can be shown.
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// The hosts it is for, in lower case; `*.` may stand before one.
    pub(super) names: Vec<String>,
}

/// When a certificate holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before_s: i64,
    pub(super) not_after_s: i64,
}

impl Certificate {
    pub(super) fn new(settings: &config::Certificate) -> Result<Self, Fault> {
        let fault = |message: String| Fault::new(&settings.chain, message, HINT);
        let chain = certificates(&settings.chain).map_err(fault)?;
        let key = private_key(&settings.key).map_err(|why| Fault::new(&settings.key, why, HINT))?;
        let shown = settings.chain.path().display();
        for certificate in &chain {
            Validity::of(certificate).map_err(|why| fault(format!("{shown}: {why}")))?;
        }
        let own = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let names = names(own);
        pingora::tls::install_default_crypto_provider();
        let provider = CryptoProvider::get_default()
            .ok_or_else(|| fault("there is no cryptography in this process".to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let key = settings.key.path().display();
            fault(match error {
                RusTlsError::InconsistentKeys(_) => {
                    format!("certificate and key do not fit: {key} is not the key of {shown}")
                }
                error => format!("{shown} and {key} cannot be used: {error}"),
            })
        })?;
        Ok(Self { key: Arc::new(key), names })
    }
}

impl Validity {
    pub(super) fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("a certificate cannot be read: {error}"))?;
        let validity = certificate.validity();
        Ok(Self {
            not_before_s: validity.not_before.timestamp(),
            not_after_s: validity.not_after.timestamp(),
        })
    }
}

/// The hosts among the subject's alternative names. Its common name counts no more (RFC 9525).
fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(host).collect()
}
