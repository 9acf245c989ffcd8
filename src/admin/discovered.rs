//! Servers that were discovered, for the configuration to read like those that were registered.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::telemetry::Metrics;

#[cfg(feature = "kubernetes")]
use super::services::Following;

/// The servers that were discovered, and what became of every service.
pub(super) struct Discovered {
    state: Mutex<State>,
    #[cfg(feature = "kubernetes")]
    pub(super) following: Mutex<Following>,
}

#[derive(Default)]
struct State {
    /// Servers and routes as JSON, in the shape of an included file; `None` without any.
    text: Option<Arc<str>>,
    services: Vec<Reported>,
}

/// What became of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) became: Became,
}

/// What became of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "kubernetes"), expect(dead_code, reason = "nothing discovers services"))]
pub(super) enum Became {
    /// A server of this name, at this path.
    Server { name: String, path: String },
    /// Such a server, until it is taken out.
    Leaving { name: String, path: String },
    /// Nothing, and why.
    Nothing(String),
}

impl Discovered {
    /// Nothing was discovered yet.
    #[cfg_attr(not(feature = "kubernetes"), expect(unused_variables, reason = "nothing fails"))]
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            state: Mutex::default(),
            #[cfg(feature = "kubernetes")]
            following: Mutex::new(Following::new(metrics)),
        }
    }

    /// What the configuration is to read beside its files.
    pub(super) fn text(&self) -> Option<Arc<str>> {
        self.state.lock().text.clone()
    }

    /// Takes other servers; tells whether that changes what the configuration reads.
    #[cfg(feature = "kubernetes")]
    pub(super) fn replace(&self, text: Option<Arc<str>>, services: Vec<Reported>) -> bool {
        let mut state = self.state.lock();
        let is_other = state.text != text;
        *state = State { text, services };
        is_other
    }

    /// Whether this server was discovered.
    pub(super) fn has(&self, server: &str, settings: &Settings) -> bool {
        let services = &self.state.lock().services;
        !settings.shadowed.iter().any(|name| name == server)
            && services.iter().any(|Reported { became, .. }| match became {
                Became::Server { name, .. } | Became::Leaving { name, .. } => name == server,
                Became::Nothing(_) => false,
            })
    }

    /// Every service, as operators see it.
    pub(super) fn shown(&self, settings: &Settings) -> Vec<Value> {
        let shown = |Reported { namespace, name, became }: &Reported| {
            let mut shown = json!({ "namespace": namespace, "name": name });
            let (state, server, path, why) = match became {
                Became::Server { name, .. } if settings.shadowed.contains(name) => {
                    let why =
                        "the configuration has a server of this name, or a route like its own";
                    ("ignored", None, None, Some(why))
                }
                Became::Server { name, path } => ("served", Some(name), Some(path), None),
                Became::Leaving { name, path } => ("leaving", Some(name), Some(path), None),
                Became::Nothing(why) => ("ignored", None, None, Some(why.as_str())),
            };
            shown["state"] = state.into();
            for (key, value) in [
                ("server", server.map(String::as_str)),
                ("route", path.map(String::as_str)),
                ("why", why),
            ] {
                if let Some(value) = value {
                    shown[key] = value.into();
                }
            }
            shown
        };
        self.state.lock().services.iter().map(shown).collect()
    }
}
