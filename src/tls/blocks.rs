//! The blocks of PEM files.

use pingora::tls::{CertificateDer, PrivateKeyDer};
use x509_parser::pem::Pem;

use crate::config::PemFile;

/// What certificates are called in PEM.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";
/// What lists of revoked ones are called there.
pub(super) const CRL: &str = "X509 CRL";
/// What private keys are called there, by their three formats.
const KEYS: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];

/// The blocks of this kind; at least one.
pub(super) fn blocks(file: &PemFile, label: &str) -> Result<Vec<Vec<u8>>, String> {
    labelled(file, &[label])
}

/// The certificates; at least one.
pub(super) fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, String> {
    let blocks = blocks(file, CERTIFICATE)?;
    Ok(blocks.into_iter().map(CertificateDer::from).collect())
}

/// The first private key.
pub(super) fn private_key(file: &PemFile) -> Result<PrivateKeyDer<'static>, String> {
    let key = labelled(file, &KEYS)?.into_iter().next().unwrap_or_default();
    let shown = file.path().display();
    PrivateKeyDer::try_from(key).map_err(|why| format!("the key in {shown} cannot be used: {why}"))
}

fn labelled(file: &PemFile, labels: &[&str]) -> Result<Vec<Vec<u8>>, String> {
    let shown = file.path().display();
    let mut blocks = Vec::new();
    for block in Pem::iter_from_buffer(file.bytes()) {
        let block = block.map_err(|error| format!("{shown} is not PEM: {error}"))?;
        if labels.contains(&block.label.as_str()) {
            blocks.push(block.contents);
        }
    }
    match blocks.is_empty() {
        true => Err(format!("there is no {} in {shown}", labels[0])),
        false => Ok(blocks),
    }
}
