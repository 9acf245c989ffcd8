//! What a page that watches the gateway asks for: how it is doing at this moment, and what is configured.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::answer::Answer;
use super::api::{Api, tag_of};
use super::tokens;
use crate::config::Role;
use crate::telemetry::{instance, rfc3339};
use crate::upstream::now_ms;

impl Api {
    /// Counters and gauges of this replica; whoever asks twice can tell rates.
    pub(super) fn live(&self, role: &Role) -> Answer {
        let shared = self.reload().shared();
        let settings = self.reload().settings();
        let mut live = shared.metrics().live();
        live["at"] = rfc3339(SystemTime::now()).into();
        // A clock that nobody sets: differences of it are true.
        live["clock_ms"] = now_ms().into();
        live["replica"] = instance().into();
        live["version"] = env!("CARGO_PKG_VERSION").into();
        live["role"] = tokens::name(role).into();
        live["configuration"] = tag_of(&settings).trim_matches('"').into();
        live["stopping"] = shared.lifecycle().is_draining().into();
        live["shared"]["standing"] = shared.store().standing().to_string().into();
        live["shared"]["configured"] = settings.shared.is_some().into();
        live["audit"]["configured"] = settings.audit.is_some().into();
        Answer::ok(live)
    }

    /// The files in force, with every secret hidden and without comments.
    pub(super) fn config(&self) -> Answer {
        let settings = self.reload().settings();
        let files = settings.sources.texts();
        let files: Vec<Value> =
            files.map(|(name, text)| json!({ "name": name, "text": text })).collect();
        Answer::ok(json!({ "files": files })).tagged(tag_of(&settings))
    }
}
