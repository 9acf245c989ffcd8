//! The gateways' configuration: what every drill needs, and beside it only the keys that one of them is about.

use std::net::SocketAddr;
use std::path::Path;

use ring::digest::{SHA256, digest};

use crate::fleet::Addresses;

/// The operator of a drill.
pub(crate) const TOKEN: &str = "drill-operator-token";
/// The server's name in the configuration.
pub(crate) const SERVER: &str = "drill";
const SESSION_KEY: &str = "a-session-key-for-drills-which-protects-nothing";

/// What a scenario asks of the configuration beyond addresses. Entries are `key: value`, in YAML.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wants {
    pub(crate) runtime: Vec<String>,
    pub(crate) sessions: Vec<String>,
    pub(crate) server: Vec<String>,
    pub(crate) route: Vec<String>,
    pub(crate) admin: Option<Admin>,
    pub(crate) keys: Keys,
}

/// The admin listener with a token for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admin;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keys {
    /// The gateway makes its own.
    #[default]
    Own,
    /// Gateways that take each other's sessions.
    Shared,
    /// The same, with a store on this port in which they keep what is common.
    Stored(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) weight: u32,
}

impl Endpoint {
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

/// The whole file of one gateway.
pub(crate) fn gateway(
    addresses: &Addresses,
    state: &Path,
    wants: &Wants,
    endpoints: &[Endpoint],
) -> String {
    let Addresses { listen, health, admin } = addresses;
    let mut text = format!(
        "listen: {listen}\nhealth: {{ listen: {health} }}\nstate_dir: {}\ntelemetry: {{ requests: off }}\n",
        state.display()
    );
    let mut line = |line: String| text += &format!("{line}\n");
    if wants.admin.is_some() {
        let token = hex(digest(&SHA256, TOKEN.as_bytes()).as_ref());
        line(format!(
            "admin: {{ listen: {admin}, tokens: [{{ role: operate, sha256: {token:?} }}] }}"
        ));
    }
    let mut sessions = wants.sessions.clone();
    if let Keys::Stored(port) = wants.keys {
        line(format!("shared: {{ redis: \"redis://127.0.0.1:{port}\" }}"));
    }
    if wants.keys != Keys::Own {
        sessions.push(format!("keys: [{SESSION_KEY}]"));
    }
    for (section, entries) in [("runtime", &wants.runtime), ("sessions", &sessions)] {
        if !entries.is_empty() {
            line(format!("{section}: {{ {} }}", entries.join(", ")));
        }
    }
    line(format!("servers:\n  {SERVER}:\n    endpoints:"));
    for endpoint in endpoints {
        line(format!("      - {{ url: {:?}, weight: {} }}", endpoint.url(), endpoint.weight));
    }
    for entry in &wants.server {
        line(format!("    {entry}"));
    }
    line(format!("routes:\n  - path: /mcp\n    server: {SERVER}"));
    for entry in &wants.route {
        line(format!("    {entry}"));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
