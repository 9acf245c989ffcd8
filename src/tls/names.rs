//! Which certificate a client is shown: by the name it asks for (SNI).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use pingora::tls::sign::CertifiedKey;
use pingora::tls::{ClientHello, ResolvesServerCert};

use super::Fault;
use super::certificate::Certificate;
use crate::config;

/// The certificates of a listener by the names in them.
pub(super) struct ByName {
    /// For clients that name nobody, or somebody unknown.
    default: Arc<CertifiedKey>,
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what stands behind `*.`, which stands for one label.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl ByName {
    /// Notes everything that is wrong with these; at least one is given.
    pub(super) fn new(settings: &[config::Certificate]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut read = Vec::new();
        let mut seen = HashMap::new();
        for (place, certificate) in settings.iter().enumerate() {
            match Certificate::new(certificate) {
                Ok(made) => {
                    note_unreachable(place, certificate, &made, &mut seen, &mut faults);
                    read.push(made);
                }
                Err(fault) => faults.push(fault),
            }
        }
        let default = read.first().map(|first| Arc::clone(&first.key));
        let Some(default) = default.filter(|_| faults.is_empty()) else { return Err(faults) };
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for Certificate { key, names } in read {
            for name in names {
                match name.strip_prefix("*.") {
                    Some(rest) => wildcard.insert(Box::from(rest), Arc::clone(&key)),
                    None => exact.insert(name.into_boxed_str(), Arc::clone(&key)),
                };
            }
        }
        Ok(Self { default, exact, wildcard })
    }

    /// The certificate for this name, in lower case: its own, else that of all hosts beside it, else the first.
    pub(super) fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let beside = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(beside).unwrap_or(&self.default)
    }
}

/// Notes a certificate that no client could ever be shown, or not for a name it is for.
fn note_unreachable<'s>(
    place: usize,
    settings: &'s config::Certificate,
    made: &Certificate,
    seen: &mut HashMap<String, &'s config::Certificate>,
    faults: &mut Vec<Fault>,
) {
    let shown = settings.chain.path().display();
    let mut fault = |message: String, hint| faults.push(Fault::new(&settings.chain, message, hint));
    if place > 0 && made.names.is_empty() {
        fault(
            format!("{shown} names no host, so no client would be shown it"),
            "give one with subject alternative names, or put it first",
        );
    }
    for name in &made.names {
        // One certificate may say a name twice.
        let first = seen.entry(name.clone()).or_insert(settings);
        if !std::ptr::eq(*first, settings) {
            let other = first.chain.path().display();
            fault(
                format!("{shown} is for {name}, and so is {other}"),
                "name one certificate for each host",
            );
        }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has put the name into lower case.
        let named = client_hello.server_name().map(|name| self.find(name));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

impl fmt::Debug for ByName {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.exact.keys()).entries(self.wildcard.keys()).finish()
    }
}
