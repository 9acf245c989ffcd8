//! What metrics say of endpoints: their states, their load, what probes and lookups found.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counters, gauges};

/// The metrics of endpoints and of what finds them.
pub struct EndpointMetrics {
    states: IntGaugeVec,
    sessions: IntGaugeVec,
    in_flight: IntGaugeVec,
    probes: IntCounterVec,
    health_changes: IntCounterVec,
    discovery_failing: IntGaugeVec,
}

/// One endpoint, as metrics show it.
#[derive(Clone, Copy, Debug)]
pub struct EndpointShown<'a> {
    /// The server's name.
    pub server: &'a str,
    /// The endpoint's URL.
    pub endpoint: &'a str,
    /// Its state.
    pub state: &'static str,
    /// Sessions that were last seen there.
    pub sessions: usize,
    /// Calls under way.
    pub in_flight: usize,
}

/// The labels of a probe that passed and of one that did not.
const PROBE_OUTCOMES: [&str; 2] = ["passed", "failed"];
/// The labels of what a row of probes changed.
const HEALTHS: [&str; 2] = ["healthy", "unhealthy"];

impl EndpointMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let endpoint = &["server", "endpoint"];
        Self {
            states: gauges(
                registry,
                "toolgate_endpoint_state",
                "1 for the state that an endpoint is in, 0 for every other.",
                &["server", "endpoint", "state"],
            ),
            sessions: gauges(
                registry,
                "toolgate_endpoint_sessions",
                "Sessions that were last seen at an endpoint.",
                endpoint,
            ),
            in_flight: gauges(
                registry,
                "toolgate_endpoint_in_flight",
                "Calls under way at an endpoint.",
                endpoint,
            ),
            probes: counters(
                registry,
                "toolgate_probes_total",
                "Active probes of an endpoint, by outcome.",
                &["server", "endpoint", "outcome"],
            ),
            health_changes: counters(
                registry,
                "toolgate_health_changes_total",
                "How often probes found an endpoint to have become healthy or unhealthy.",
                &["server", "endpoint", "health"],
            ),
            discovery_failing: gauges(
                registry,
                "toolgate_discovery_failing",
                "1 while a host name, a file of endpoints or the API server of Kubernetes gives no answer and its last good one is kept.",
                &["server", "source"],
            ),
        }
    }

    /// Shows an endpoint as it is now; `states` are all that it may be in.
    pub fn show(&self, shown: &EndpointShown<'_>, states: impl Iterator<Item = &'static str>) {
        let EndpointShown { server, endpoint, state, sessions, in_flight } = *shown;
        for possible in states {
            let gauge = self.states.with_label_values(&[server, endpoint, possible]);
            gauge.set(i64::from(possible == state));
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.sessions.with_label_values(&[server, endpoint]).set(count(sessions));
        self.in_flight.with_label_values(&[server, endpoint]).set(count(in_flight));
    }

    /// Shows an endpoint no longer: with addresses that come and go there would be ever more.
    pub fn forget(&self, server: &str, endpoint: &str, states: impl Iterator<Item = &'static str>) {
        // What was never shown cannot be removed, and need not be.
        for state in states {
            self.states.remove_label_values(&[server, endpoint, state]).ok();
        }
        self.sessions.remove_label_values(&[server, endpoint]).ok();
        self.in_flight.remove_label_values(&[server, endpoint]).ok();
        for outcome in PROBE_OUTCOMES {
            self.probes.remove_label_values(&[server, endpoint, outcome]).ok();
        }
        for health in HEALTHS {
            self.health_changes.remove_label_values(&[server, endpoint, health]).ok();
        }
    }

    /// Counts a probe.
    pub fn probed<E>(&self, server: &str, endpoint: &str, outcome: &Result<(), E>) {
        let outcome = PROBE_OUTCOMES[usize::from(outcome.is_err())];
        self.probes.with_label_values(&[server, endpoint, outcome]).inc();
    }

    /// Counts an endpoint that became healthy.
    pub fn became_healthy(&self, server: &str, endpoint: &str) {
        self.health_changes.with_label_values(&[server, endpoint, HEALTHS[0]]).inc();
    }

    /// Counts an endpoint that became unhealthy.
    pub fn became_unhealthy(&self, server: &str, endpoint: &str) {
        self.health_changes.with_label_values(&[server, endpoint, HEALTHS[1]]).inc();
    }

    /// A host name or a file of endpoints gives no good answer.
    pub fn discovery_fails(&self, server: &str, source: &str) {
        self.discovery_failing.with_label_values(&[server, source]).set(1);
    }

    /// A host name or a file of endpoints gives good answers.
    pub fn discovery_works(&self, server: &str, source: &str) {
        self.discovery_failing.with_label_values(&[server, source]).set(0);
    }

    /// Nobody asks for this host name or file any more.
    pub fn discovery_ended(&self, server: &str, source: &str) {
        self.discovery_failing.remove_label_values(&[server, source]).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::EndpointShown;
    use crate::telemetry::Metrics;

    #[test]
    fn an_endpoint_is_shown_in_one_state_until_it_is_forgotten() {
        let metrics = Metrics::new(1, 1);
        let shown = |state| EndpointShown {
            server: "one",
            endpoint: "http://a/",
            state,
            sessions: 3,
            in_flight: 2,
        };
        let states = || ["serving", "ejected"].into_iter();
        let text = || String::from_utf8(metrics.render()).expect("UTF-8");
        metrics.endpoints.show(&shown("serving"), states());
        metrics.endpoints.show(&shown("ejected"), states());
        metrics.endpoints.probed("one", "http://a/", &Err(()));
        metrics.endpoints.became_unhealthy("one", "http://a/");
        let now = text();
        for line in [
            r#"toolgate_endpoint_state{endpoint="http://a/",server="one",state="ejected"} 1"#,
            r#"toolgate_endpoint_state{endpoint="http://a/",server="one",state="serving"} 0"#,
            r#"toolgate_endpoint_sessions{endpoint="http://a/",server="one"} 3"#,
            r#"toolgate_endpoint_in_flight{endpoint="http://a/",server="one"} 2"#,
            r#"toolgate_probes_total{endpoint="http://a/",outcome="failed",server="one"} 1"#,
        ] {
            assert!(now.contains(line), "{line} in\n{now}");
        }
        metrics.endpoints.forget("one", "http://a/", states());
        assert!(!text().contains("http://a/"), "{}", text());
    }
}
