//! TLS of a listener: its certificate, who may sign the certificates of clients, which of them were
//! revoked, and whom a connection shows.

use std::any::Any;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::tls::TlsRef;
use pingora::tls::{
    CertificateDer, ClientCertVerifier, RootCertStore, ServerConfig, WebPkiClientVerifier,
    load_certs_and_key_files, version,
};
use x509_parser::pem::Pem;

use crate::config::{ClientCertificate, ClientTls, Tls};
use crate::identity::PeerCertificate;

/// The settings of a listener with this section.
///
/// # Errors
/// Which file is not what it should be; `tls_fault` says so before.
pub fn tls_settings(tls: &Tls) -> Result<TlsSettings, String> {
    let certificate = tls.certificate.display().to_string();
    let key = tls.key.display().to_string();
    let mut settings = match &tls.clients {
        None => TlsSettings::intermediate(&certificate, &key).map_err(|error| error.to_string())?,
        Some(clients) => {
            let with_files = || {
                let mut settings = TlsSettings::with_callbacks(Box::new(ReadCertificate))?;
                settings.set_certificate_chain_file(&certificate)?;
                settings.set_private_key_file(&key)?;
                Ok(settings)
            };
            let mut settings =
                with_files().map_err(|error: Box<pingora::Error>| error.to_string())?;
            settings.set_client_cert_verifier(client_verifier(clients)?);
            settings
        }
    };
    settings.enable_h2();
    Ok(settings)
}

/// Why the files cannot be used; `None` if they can.
pub fn tls_fault(tls: &Tls) -> Option<String> {
    pingora::tls::install_default_crypto_provider();
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    let loaded = load_certs_and_key_files(&certificate.to_string(), &key.to_string());
    let (chain, key) = match loaded {
        Ok(Some(loaded)) => loaded,
        Ok(None) => return Some(format!("no certificate in {certificate} or no key in {key}")),
        Err(error) => return Some(format!("cannot read {certificate} or {key}: {error}")),
    };
    let versions = [&version::TLS12, &version::TLS13];
    ServerConfig::builder_with_protocol_versions(&versions)
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .err()
        .map(|error| format!("certificate and key do not fit: {error}"))
        .or_else(|| client_verifier(tls.clients.as_ref()?).err())
}

/// What checks the certificates of clients in the handshake.
fn client_verifier(clients: &ClientTls) -> Result<Arc<dyn ClientCertVerifier>, String> {
    pingora::tls::install_default_crypto_provider();
    let ca = clients.ca.display();
    let mut roots = RootCertStore::empty();
    for certificate in blocks(&clients.ca, "CERTIFICATE")? {
        let added = roots.add(CertificateDer::from(certificate));
        added.map_err(|error| format!("a certificate in {ca} cannot be used: {error}"))?;
    }
    let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots));
    if let Some(crl) = &clients.crl {
        verifier = verifier.with_crls(blocks(crl, "X509 CRL")?.into_iter().map(Into::into));
    }
    if clients.certificate == ClientCertificate::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map(|verifier| verifier as Arc<dyn ClientCertVerifier>).map_err(|error| {
        format!("the certificates of clients cannot be checked with {ca} and its CRL: {error}")
    })
}

/// The blocks of this kind in a file of PEM; at least one.
fn blocks(path: &Path, label: &str) -> Result<Vec<Vec<u8>>, String> {
    let shown = path.display();
    let text = fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let mut blocks = Vec::new();
    for block in Pem::iter_from_buffer(&text) {
        let block = block.map_err(|error| format!("{shown} is not PEM: {error}"))?;
        if block.label == label {
            blocks.push(block.contents);
        }
    }
    match blocks.is_empty() {
        true => Err(format!("there is no {label} in {shown}")),
        false => Ok(blocks),
    }
}

/// Reads the certificate of a connection once, when its handshake is done.
struct ReadCertificate;

#[async_trait]
impl TlsAccept for ReadCertificate {
    async fn handshake_complete_callback(
        &self,
        tls: &TlsRef,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        // What the handshake has accepted and cannot be read names nobody, and that is refused.
        let certificate = PeerCertificate::read(tls.peer_certificate_der()?).unwrap_or_default();
        Some(Arc::new(certificate))
    }
}
