//! The certificates of clients: who signs them, which are revoked, and what a connection has shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pingora::tls::{
    CertificateDer, ClientCertVerifier, RootCertStore, UnixTime, WebPkiClientVerifier,
};
use ring::digest::{Context, SHA256};

use super::Fault;
use super::blocks::{CRL, blocks, certificates};
use crate::config::{ClientCertificate, ClientTls, PemFile};
use crate::identity::PeerCertificate;

/// What clients of a listener must show.
pub(super) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Tells one such rule from another.
    id: u64,
    certificate: ClientCertificate,
}

/// The certificate that a connection has shown in its handshake.
#[derive(Debug)]
pub struct Peer {
    /// What it says of its holder.
    pub certificate: PeerCertificate,
    chain: Vec<CertificateDer<'static>>,
    /// The rule it has met last.
    admitted_by: AtomicU64,
}

impl Clients {
    pub(super) fn new(settings: &ClientTls) -> Result<Self, Fault> {
        let hint =
            "give PEM files: who signs the certificates of clients, and their revocation list";
        let fault = |file: &PemFile, why: String| Fault::new(file, why, hint);
        pingora::tls::install_default_crypto_provider();
        let shown = settings.ca.path().display();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&settings.ca).map_err(|why| fault(&settings.ca, why))? {
            roots.add(certificate).map_err(|error| {
                let why = format!("a certificate in {shown} cannot be used: {error}");
                fault(&settings.ca, why)
            })?;
        }
        let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        let mut digest = Context::new(&SHA256);
        digest.update(settings.ca.bytes());
        if let Some(crl) = &settings.crl {
            digest.update(crl.bytes());
            let lists = blocks(crl, CRL).map_err(|why| fault(crl, why))?;
            verifier = verifier.with_crls(lists.into_iter().map(Into::into));
        }
        if settings.certificate == ClientCertificate::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(|error| {
            let with = "the certificates of clients cannot be checked with";
            let file = settings.crl.as_ref().unwrap_or(&settings.ca);
            fault(file, format!("{with} {shown} and its CRL: {error}"))
        })?;
        let mut id = [0; 8];
        id.copy_from_slice(&digest.finish().as_ref()[..8]);
        Ok(Self { verifier, id: u64::from_le_bytes(id), certificate: settings.certificate })
    }

    /// Whether a connection that was opened under another rule would be let in now.
    pub(super) fn admit(&self, peer: Option<&Peer>) -> bool {
        let Some(peer) = peer else { return self.certificate == ClientCertificate::Optional };
        if peer.admitted_by.load(Ordering::Relaxed) == self.id {
            return true;
        }
        let Some((own, others)) = peer.chain.split_first() else { return false };
        let verified = self.verifier.verify_client_cert(own, others, UnixTime::now());
        if let Err(error) = &verified {
            tracing::debug!(%error, "the certificate of an open connection is not accepted any more");
            return false;
        }
        peer.admitted_by.store(self.id, Ordering::Relaxed);
        true
    }

    /// What a connection has shown in a handshake under this rule.
    pub(super) fn peer(&self, chain: &[CertificateDer<'static>]) -> Option<Peer> {
        // What the handshake has accepted and cannot be read names nobody, and that is refused.
        let certificate = PeerCertificate::read(chain.first()?).unwrap_or_default();
        let admitted_by = AtomicU64::new(self.id);
        Some(Peer { certificate, chain: chain.to_vec(), admitted_by })
    }
}
