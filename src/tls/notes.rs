//! When certificates end: as metrics, and in words while there is time to renew them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::blocks::{CRL, blocks, certificates};
use super::certificate::Validity;
use crate::config::{PemFile, Settings};
use crate::telemetry::{CertificateShown, Metrics, rfc3339};

/// Whoever renews certificates by hand needs this long, and a renewal by machine has failed by then.
const WARN_BEFORE_S: i64 = 14 * 24 * 60 * 60;

/// A file with certificates, and what for.
struct Used<'s> {
    file: &'s PemFile,
    what: &'static str,
    by: String,
}

/// Says when the certificates of this configuration end, as metrics and, where it is soon, in the log.
pub fn note(settings: &Settings, metrics: &Metrics, now: SystemTime) {
    let used = used(settings);
    let ends = used.iter().filter_map(|used| {
        let validity = used.validity()?;
        let file = used.file.path().display().to_string();
        let shown = CertificateShown { used_as: used.what, by: used.by.clone(), file };
        Some((shown, validity.not_after_s))
    });
    metrics.certificates(ends.collect());
    for note in notes(settings, now) {
        tracing::warn!("{note}");
    }
}

/// What of the certificates and lists of this configuration is over, ends soon, or has not begun.
pub fn notes(settings: &Settings, now: SystemTime) -> Vec<String> {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_s = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let mut notes: Vec<_> = used(settings).iter().filter_map(|used| used.note(now_s)).collect();
    for listener in &settings.listeners {
        let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let Some(crl) = clients.and_then(|clients| clients.crl.as_ref()) else { continue };
        if let Some(due_s) = next_update_s(crl).filter(|due_s| *due_s < now_s) {
            let (file, due) = (crl.path().display(), day(due_s));
            notes.push(format!("{file}: a newer list of revoked certificates was due on {due}; this one still counts"));
        }
    }
    notes
}

fn used(settings: &Settings) -> Vec<Used<'_>> {
    let mut used = Vec::new();
    for listener in &settings.listeners {
        let Some(tls) = &listener.tls else { continue };
        let by = listener.address.to_string();
        for certificate in &tls.certificates {
            used.push(Used { file: &certificate.chain, what: "listener", by: by.clone() });
        }
        if let Some(clients) = &tls.clients {
            used.push(Used { file: &clients.ca, what: "client_ca", by });
        }
    }
    for server in &settings.servers {
        if let Some(file) = &server.ca {
            used.push(Used { file, what: "server_ca", by: server.name.clone() });
        }
    }
    used
}

impl Used<'_> {
    /// When all of them hold: a chain ends with its first certificate. Of several authorities each is
    /// one of its own, and the last to end counts.
    fn validity(&self) -> Option<Validity> {
        let all = certificates(self.file).ok()?;
        let all = all.iter().filter_map(|der| Validity::of(der).ok());
        match self.what {
            "listener" => all.min_by_key(|validity| validity.not_after_s),
            _ => all.max_by_key(|validity| validity.not_after_s),
        }
    }

    fn note(&self, now_s: i64) -> Option<String> {
        let Validity { not_before_s, not_after_s } = self.validity()?;
        let Self { file, what, by } = self;
        let (file, left_s) = (file.path().display(), not_after_s.saturating_sub(now_s));
        let what = match *what {
            "listener" => "the certificate of the listener",
            "client_ca" => "the authority of clients at",
            _ => "the authority of the server",
        };
        let when = if left_s <= 0 {
            format!("ended on {}", day(not_after_s))
        } else if left_s < WARN_BEFORE_S {
            format!("ends on {}, in {} days", day(not_after_s), left_s / (24 * 60 * 60))
        } else if not_before_s > now_s {
            format!("holds only from {} on", day(not_before_s))
        } else {
            return None;
        };
        Some(format!("{file}: {what} {by} {when}"))
    }
}

/// When the earliest of the next lists is due.
fn next_update_s(crl: &PemFile) -> Option<i64> {
    let lists = blocks(crl, CRL).ok()?;
    let due = |der: &Vec<u8>| {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        Some(list.next_update()?.timestamp())
    };
    lists.iter().filter_map(due).min()
}

fn day(at_s: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(at_s).unwrap_or_default());
    rfc3339(at).chars().take(10).collect()
}
