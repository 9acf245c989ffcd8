//! What ends TLS at a listener.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::tls::TlsRef;

use super::Fault;
use super::clients::{Clients, Peer};
use super::names::ByName;
use crate::config::{Listener, Tls};

/// What ends TLS at a listener: made once from its files, and replaced as a whole.
///
/// A client may resume what it began with the same one only: what it has shown was checked by the
/// rules of that, and is not shown again.
pub struct Terminator {
    acceptor: Acceptor,
    clients: Option<Arc<Clients>>,
}

/// Those of the configuration in force, which go on in the next one where their files are the same.
#[derive(Default)]
pub struct Terminators(Mutex<Vec<(Tls, Arc<Terminator>)>>);

impl Terminator {
    pub(super) fn new(tls: &Tls) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let names = ByName::new(&tls.certificates).map_err(|found| faults.extend(found)).ok();
        let clients = tls.clients.as_ref().map(Clients::new).transpose();
        let clients = clients.map_err(|fault| faults.push(fault));
        let (Some(names), Ok(clients)) = (names, clients) else { return Err(faults) };
        let clients = clients.map(Arc::new);
        let callbacks = Box::new(ReadCertificate(clients.clone()));
        // It has no way to fail here, and does not say so.
        let mut settings = TlsSettings::with_callbacks(callbacks).map_err(|_| Vec::new())?;
        settings.set_cert_resolver(Arc::new(names));
        if let Some(clients) = &clients {
            settings.set_client_cert_verifier(Arc::clone(&clients.verifier));
        }
        settings.enable_h2();
        Ok(Self { acceptor: settings.build(), clients })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Why there is no connection; the client was told what it may know.
    pub async fn accept(&self, stream: L4Stream) -> pingora::Result<Stream> {
        Ok(Box::new(self.acceptor.tls_handshake(stream).await?))
    }

    /// Whether a connection that has shown this would be let in now: another list of revoked
    /// certificates may be in force than when it was opened.
    pub fn admits(&self, peer: Option<&Peer>) -> bool {
        self.clients.as_ref().is_none_or(|clients| clients.admit(peer))
    }
}

impl Terminators {
    /// Those of these listeners, in their order.
    ///
    /// # Errors
    /// What [`super::problems`] says before.
    pub fn prepare(&self, listeners: &[Listener]) -> Result<Vec<Option<Arc<Terminator>>>, String> {
        let mut kept = self.0.lock();
        let mut next = Vec::new();
        let mut prepare = |listener: &Listener| {
            let Some(tls) = &listener.tls else { return Ok(None) };
            let same = kept.iter().find(|(of, _)| of == tls).map(|(_, same)| Arc::clone(same));
            let terminator = match same {
                Some(same) => same,
                None => Arc::new(Terminator::new(tls).map_err(|faults| {
                    let messages: Vec<_> = faults.into_iter().map(|fault| fault.message).collect();
                    messages.join("; ")
                })?),
            };
            next.push((tls.clone(), Arc::clone(&terminator)));
            Ok(Some(terminator))
        };
        let prepared = listeners.iter().map(&mut prepare).collect::<Result<_, String>>()?;
        *kept = next;
        Ok(prepared)
    }
}

/// Reads the certificate of a connection once, when its handshake is done.
struct ReadCertificate(Option<Arc<Clients>>);

#[async_trait]
impl TlsAccept for ReadCertificate {
    async fn handshake_complete_callback(
        &self,
        tls: &TlsRef,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        let peer = self.0.as_ref()?.peer(tls.peer_cert_chain_der()?)?;
        // Who asks for it later gets it by this type, and may keep it.
        Some(Arc::new(Arc::new(peer)))
    }
}
