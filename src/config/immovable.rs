//! What a running process cannot change, though its file did.

use ipnet::IpNet;

use super::{Admin, Audit, Listener, ListenerLimits, ProxyProtocol, Settings};

impl Settings {
    /// The keys that differ and take effect only in a new process, in the order of the file.
    #[must_use]
    pub fn immovable_changes(&self, newer: &Self) -> Vec<&'static str> {
        let admin = |settings: &Self| settings.admin.as_ref().map(|Admin { listen, .. }| *listen);
        let keys = [
            (
                "listeners.address",
                self.listeners.len() != newer.listeners.len()
                    || listeners_differ(self, newer, |listener| listener.address),
            ),
            ("listeners.tls", listeners_differ(self, newer, |listener| listener.tls.is_some())),
            (
                "listeners.proxy_protocol",
                listeners_differ(self, newer, |listener| listener.proxy_protocol),
            ),
            ("listeners.trusted_proxies", listeners_differ(self, newer, believed_headers)),
            ("listeners.limits", listeners_differ(self, newer, limits_of_connections)),
            ("health.listen", self.health != newer.health),
            ("admin.listen", admin(self) != admin(newer)),
            ("runtime.threads", self.runtime.threads != newer.runtime.threads),
            (
                "runtime.upstream_idle_connections",
                self.runtime.upstream_idle_connections != newer.runtime.upstream_idle_connections,
            ),
            (
                "runtime.connections_max",
                self.runtime.connections_max != newer.runtime.connections_max,
            ),
            (
                "runtime.connection_age_max",
                self.runtime.connection_age_max != newer.runtime.connection_age_max,
            ),
            ("runtime.grace", self.runtime.grace != newer.runtime.grace),
            ("shared", self.shared != newer.shared),
            ("state_dir", self.state_dir != newer.state_dir),
            (
                "audit.sinks",
                audit(self, |audit| &audit.sinks) != audit(newer, |audit| &audit.sinks),
            ),
            (
                "audit.when_full",
                audit(self, |audit| &audit.when_full) != audit(newer, |audit| &audit.when_full),
            ),
            ("audit.queue", audit(self, audit_queue) != audit(newer, audit_queue)),
            ("telemetry.requests", self.telemetry.requests != newer.telemetry.requests),
            (
                "telemetry.labels",
                (self.telemetry.callers_max, self.telemetry.tools_max)
                    != (newer.telemetry.callers_max, newer.telemetry.tools_max),
            ),
            ("telemetry.otlp", self.telemetry.otlp != newer.telemetry.otlp),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// A part of the section, where there is one.
fn audit<'s, T>(settings: &'s Settings, part: fn(&'s Audit) -> T) -> Option<T> {
    settings.audit.as_ref().map(part)
}

fn audit_queue(audit: &Audit) -> (usize, usize) {
    (audit.queue_records_max, audit.queue_bytes_max)
}

/// Whether a part differs at some place of the list, because each listener serves the rules at its own place.
fn listeners_differ<'s, T: PartialEq>(
    settings: &'s Settings,
    newer: &'s Settings,
    part: fn(&'s Listener) -> T,
) -> bool {
    settings.listeners.iter().zip(&newer.listeners).any(|(old, new)| part(old) != part(new))
}

/// Who may write a PROXY protocol header is fixed when the listener is made; whose X-Forwarded-For
/// is believed is asked for each request.
fn believed_headers(listener: &Listener) -> &[IpNet] {
    match listener.proxy_protocol {
        ProxyProtocol::V2 => &listener.trusted_proxies,
        ProxyProtocol::Off => &[],
    }
}

/// What each connection is bound by from its start; the time for a body and the limit
/// of an address are asked for each request.
fn limits_of_connections(listener: &Listener) -> ListenerLimits {
    let body_timeout = ListenerLimits::default().body_timeout;
    ListenerLimits { body_timeout, requests_per_address: None, ..listener.limits.clone() }
}
