//! Who signs the certificates of a server's endpoints.

use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::tls::RootCertStore;
use pingora::utils::tls::{WrappedX509, parse_x509};
use ring::digest::{SHA256, digest};

use super::Fault;
use super::blocks::certificates;
use super::certificate::Validity;
use crate::config::PemFile;

/// Who signs the certificates of a server's endpoints, instead of the authorities of the system.
#[derive(Clone, Debug)]
pub struct Trust {
    /// As Pingora takes them.
    pub certificates: Arc<CaType>,
    /// Tells them from others: a connection that was opened under others is not used.
    pub id: u64,
}

impl Trust {
    pub(super) fn new(ca: &PemFile) -> Result<Self, Fault> {
        let hint = "give those who sign the certificates of the endpoints, in PEM";
        let fault = |message: String| Fault::new(ca, message, hint);
        let shown = ca.path().display();
        let mut roots = RootCertStore::empty();
        let mut read = Vec::new();
        for certificate in certificates(ca).map_err(fault)? {
            // What is parsed below without a way to fail is read here.
            Validity::of(&certificate).map_err(|why| fault(format!("{shown}: {why}")))?;
            read.push(WrappedX509::new(certificate.to_vec(), parse_x509));
            let added = roots.add(certificate);
            added.map_err(|error| {
                fault(format!("a certificate in {shown} cannot be used: {error}"))
            })?;
        }
        let mut id = [0; 8];
        id.copy_from_slice(&digest(&SHA256, ca.bytes()).as_ref()[..8]);
        Ok(Self { certificates: read.into(), id: u64::from_le_bytes(id) })
    }

    /// Those of a file that was checked. One that is not nevertheless trusts nobody.
    pub fn of(ca: &PemFile) -> Self {
        Self::new(ca).unwrap_or_else(|fault| {
            tracing::error!(why = fault.message, "no endpoint's certificate can be checked");
            Self { certificates: Arc::from([]), id: 0 }
        })
    }
}
