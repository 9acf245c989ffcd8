//! From the endpoint slices of a service to its endpoints: which pods, where, and whether they stay.
//!
//! Hints of zones are not followed: an MCP session stays at its pod, so the choice of the gateway is made
//! once a session, by load and hash, and a pod in another zone is better than a full one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};

use crate::config::Port;

/// A service with more pods than that is a mistake; the rest is left out.
const PODS_MAX: usize = 1000;

/// What is kept of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    /// Name and number; the name may be empty.
    ports: Vec<(String, u16)>,
    pods: Vec<(IpAddr, Stay)>,
}

/// Whether a pod is going to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stay {
    /// It is ready.
    Stays,
    /// It is being stopped, and still serves.
    Leaves,
}

/// What matters of a slice; nothing of one that names no addresses.
pub(super) fn keep(slice: &EndpointSlice) -> Option<Slice> {
    let port = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
        let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port.port?).ok().filter(|number| *number != 0 && is_tcp)?;
        Some((port.name.clone().unwrap_or_default(), number))
    };
    let pod = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        // Several addresses of one endpoint are the same pod, and consumers take the first.
        let address = endpoint.addresses.first()?.parse().ok()?;
        Some((address, stay(endpoint.conditions.as_ref())?))
    };
    matches!(slice.address_type.as_str(), "IPv4" | "IPv6").then(|| Slice {
        ports: slice.ports.iter().flatten().filter_map(port).collect(),
        pods: slice.endpoints.iter().take(PODS_MAX).filter_map(pod).collect(),
    })
}

/// What the conditions mean. One that is not there is as the API says: ready unless told otherwise,
/// serving like ready, and not terminating.
fn stay(conditions: Option<&EndpointConditions>) -> Option<Stay> {
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (terminating, ready, serving) {
        (false, true, _) => Some(Stay::Stays),
        (true, _, true) => Some(Stay::Leaves),
        (false, false, _) | (true, _, false) => None,
    }
}

/// The pods of all slices, each once, in the order of their addresses.
///
/// # Errors
/// Why the port cannot be told, where no slice has it.
pub(super) fn pods<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    wanted: Option<&Port>,
) -> Result<Vec<(SocketAddr, Stay)>, String> {
    let mut found = BTreeMap::new();
    let mut fault = None;
    for slice in slices.filter(|slice| !slice.pods.is_empty()) {
        match slice.port(wanted) {
            Ok(port) => {
                for (address, stay) in &slice.pods {
                    let known = found.entry(SocketAddr::new(*address, port)).or_insert(*stay);
                    // While a pod moves from one slice to another it may be in both.
                    *known = (*known).min(*stay);
                }
            }
            Err(why) => fault = Some(why),
        }
    }
    match fault {
        Some(why) if found.is_empty() => Err(why),
        _ => Ok(found.into_iter().take(PODS_MAX).collect()),
    }
}

impl Slice {
    fn port(&self, wanted: Option<&Port>) -> Result<u16, String> {
        match wanted {
            Some(Port::Number(number)) => Ok(*number),
            Some(Port::Name(wanted)) => {
                let port = self.ports.iter().find(|(name, _)| name == wanted);
                port.map(|(_, number)| *number).ok_or_else(|| format!("no port is called {wanted}"))
            }
            None => match self.ports.as_slice() {
                [(_, number)] => Ok(*number),
                [] => Err("the service has no port; write the pods' `port`".to_owned()),
                _ => Err("the service has several ports; write which `port`".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EndpointSlice, Slice, Stay, keep, pods};
    use crate::config::Port;
    use serde_json::{Value, json};

    fn slice(kind: &str, ports: Value, endpoints: Value) -> Option<Slice> {
        let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "s" }, "addressType": kind, "ports": ports, "endpoints": endpoints });
        keep(&serde_json::from_value::<EndpointSlice>(slice).expect("a slice"))
    }

    fn found(slices: &[Slice], port: Option<Port>) -> Result<Vec<(String, Stay)>, String> {
        let pods = pods(slices.iter(), port.as_ref())?;
        Ok(pods.into_iter().map(|(address, stay)| (address.to_string(), stay)).collect())
    }

    #[test]
    fn conditions_decide_who_stays_leaves_and_is_gone() {
        let rows = [
            (json!(null), Some(Stay::Stays)),
            (json!({}), Some(Stay::Stays)),
            (json!({ "ready": true }), Some(Stay::Stays)),
            (json!({ "ready": true, "serving": true, "terminating": false }), Some(Stay::Stays)),
            (json!({ "ready": false }), None),
            (json!({ "ready": false, "serving": true, "terminating": false }), None),
            (json!({ "ready": false, "serving": true, "terminating": true }), Some(Stay::Leaves)),
            (json!({ "ready": false, "serving": false, "terminating": true }), None),
            (json!({ "ready": false, "terminating": true }), None),
            // As with publishNotReadyAddresses.
            (json!({ "ready": true, "serving": true, "terminating": true }), Some(Stay::Leaves)),
            (json!({ "ready": true, "serving": false, "terminating": true }), None),
        ];
        for (conditions, expected) in rows {
            let endpoints = json!([{ "addresses": ["10.0.0.1"], "conditions": conditions }]);
            let slice = slice("IPv4", json!([{ "port": 1 }]), endpoints).expect("kept");
            let states: Vec<_> = slice.pods.iter().map(|(_, stay)| *stay).collect();
            assert_eq!(states, Vec::from_iter(expected), "{conditions}");
        }
    }

    #[test]
    fn slices_are_one_list_of_both_families_without_repetition() {
        let port = || json!([{ "name": "mcp", "port": 8000 }]);
        let leaving = json!({ "ready": false, "serving": true, "terminating": true });
        let slices = [
            slice("IPv6", port(), json!([{ "addresses": ["fd00::1"] }])),
            slice(
                "IPv4",
                port(),
                json!([{ "addresses": ["10.0.0.2", "10.0.0.9"] },
                { "addresses": ["10.0.0.1"], "conditions": leaving }]),
            ),
            slice(
                "IPv4",
                port(),
                json!([{ "addresses": ["10.0.0.1"] }, { "addresses": ["nonsense"] },
                { "addresses": [] }]),
            ),
            slice("FQDN", port(), json!([{ "addresses": ["pod.example"] }])),
            slice("IPv4", json!(null), json!([])),
        ];
        let slices: Vec<Slice> = slices.into_iter().flatten().collect();
        assert_eq!(slices.len(), 4, "names are no addresses");
        let expected = ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"];
        let found = found(&slices, None).expect("found");
        assert_eq!(found, expected.map(|address| (address.to_owned(), Stay::Stays)));
    }

    #[test]
    fn ports_are_found_by_number_by_name_or_because_there_is_one() {
        let name = |name: &str| Some(Port::Name(name.to_owned()));
        let endpoints = || json!([{ "addresses": ["10.0.0.1"] }]);
        let rows = [
            (json!([{ "port": 8000 }]), None, Ok(8000)),
            (json!([{ "name": "", "port": 8000, "protocol": "TCP" }]), None, Ok(8000)),
            (json!([{ "port": 8000 }, { "port": 53, "protocol": "UDP" }]), None, Ok(8000)),
            (json!([{ "port": 8000 }]), Some(Port::Number(9)), Ok(9)),
            (json!([{ "name": "a", "port": 1 }, { "name": "b", "port": 2 }]), name("b"), Ok(2)),
            (json!([{ "name": "a", "port": 1 }, { "name": "b", "port": 2 }]), None, Err("several")),
            (json!([{ "name": "a", "port": 1 }]), name("c"), Err("no port is called c")),
            (json!([{ "name": "a" }]), None, Err("no port")),
            (json!(null), None, Err("no port")),
            (json!([{ "port": 70000 }, { "port": 0 }]), None, Err("no port")),
        ];
        for (ports, wanted, expected) in rows {
            let slice = slice("IPv4", ports.clone(), endpoints()).expect("kept");
            match (found(&[slice], wanted), expected) {
                (Ok(found), Ok(port)) => assert_eq!(found[0].0, format!("10.0.0.1:{port}")),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => panic!("{ports}: {found:?}, not {expected:?}"),
            }
        }
        // The slice of pods that have the port not yet says nothing about the others.
        let old = slice("IPv4", json!([{ "name": "a", "port": 1 }]), endpoints()).expect("kept");
        let endpoints = json!([{ "addresses": ["10.0.0.2"] }]);
        let new = slice("IPv4", json!([{ "name": "b", "port": 2 }]), endpoints).expect("kept");
        assert_eq!(found(&[old, new], name("b")).expect("found").len(), 1);
        assert_eq!(found(&[], name("b")), Ok(Vec::new()), "no pod is no fault");
    }
}
