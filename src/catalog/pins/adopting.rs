//! Pins that replicas have in common: what one trusts, all do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::{BYTES_MAX, Pending, Pin, Pins, ServerPins, make_place, seconds};
use crate::catalog::canonical::Digest;

impl Pins {
    /// Another number whenever something of this has changed.
    pub fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Every definition that is trusted: its server, its tool, its digest.
    pub fn trusted(&self) -> Vec<(String, String, String)> {
        let kept: Vec<_> =
            self.kept.lock().iter().map(|(name, pins)| (name.clone(), Arc::clone(pins))).collect();
        let of_server = |(server, pins): &(String, Arc<ServerPins>)| {
            let pin = |(tool, pin): (&String, &Pin)| {
                (server.clone(), tool.clone(), pin.digest.to_string())
            };
            pins.tools.iter().map(pin).collect::<Vec<_>>()
        };
        kept.iter().flat_map(of_server).collect()
    }

    /// Trusts what another replica trusts; what the server shows else has changed. Tells whether that
    /// is news.
    pub(in crate::catalog) fn adopt(
        &self,
        server: &str,
        tool: &str,
        (digest, text): (Digest, Option<Box<str>>),
        now: SystemTime,
    ) -> bool {
        let now_s = seconds(now);
        let mut kept = self.kept.lock();
        make_place(&mut kept, server);
        let weight: usize = kept.values().map(|pins| pins.weight()).sum();
        let text = text.filter(|text| weight + text.len() <= BYTES_MAX);
        let pins = Arc::make_mut(kept.entry(server.to_owned()).or_default());
        match pins.tools.get_mut(tool) {
            Some(pin) if pin.digest == digest => return false,
            Some(pin) => match pin.pending.take().filter(|pending| pending.digest == digest) {
                Some(pending) => pin.trust(pending, now_s),
                None => {
                    let pending = Pending { digest, text, since_s: now_s, difference: Vec::new() };
                    pin.trust(pending, now_s);
                }
            },
            None => {
                let (changed_s, removed_s, pending) = (None, None, None);
                let (since_s, difference, seen) = (now_s, Vec::new(), None);
                let pin =
                    Pin { digest, text, since_s, changed_s, difference, pending, removed_s, seen };
                pins.tools.insert(tool.to_owned(), pin);
            }
        }
        self.changes.fetch_add(1, Ordering::Release);
        true
    }
}
