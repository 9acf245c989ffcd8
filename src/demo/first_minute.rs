//! The gateway's side of the demo: its settings, what to paste, and the fleet as a service.

use std::io;
use std::net::{SocketAddr, TcpListener};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::ServiceWithDependents;
use pingora::services::background::{BackgroundService, background_service};

use super::Fleet;
use crate::config::{self, Settings};

/// A gateway and its fleet, ready to run.
pub struct Demo {
    listen: SocketAddr,
    settings: Settings,
    fleet: Fleet,
}

impl Demo {
    /// Takes the ports and writes the configuration. Where `listen` is in use or port 0, any free
    /// port is taken.
    pub fn prepare(listen: SocketAddr) -> io::Result<Self> {
        let fleet = Fleet::bind()?;
        let listen = match TcpListener::bind(listen) {
            Ok(taken) => taken.local_addr()?,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                TcpListener::bind((listen.ip(), 0))?.local_addr()?
            }
            Err(error) => return Err(error),
        };
        let yaml = configuration(listen, &fleet);
        let settings = config::parse(&yaml, "demo", &|_| None)
            .map_err(|problems| io::Error::other(problems.to_string()))?;
        Ok(Self { listen, settings, fleet })
    }

    /// What a new user reads first.
    pub fn greeting(&self) -> String {
        let listen = self.listen;
        format!(
            r#"
Toolgate is in front of four MCP servers: three replicas of `everything`, one of `notes`.

    http://{listen}/mcp          everything
    http://{listen}/notes/mcp    notes

Three things to paste into another terminal:

1. A tool call with curl (MCP 2026-07-28, stateless):

    curl -s http://{listen}/mcp -H 'Content-Type: application/json' \
      -H 'Accept: application/json, text/event-stream' \
      -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/call' -H 'Mcp-Name: add' \
      -d '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"add","arguments":{{"a":2,"b":40}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}'

2. The MCP Inspector (Node 22 or later):

    npx @modelcontextprotocol/inspector --cli http://{listen}/mcp --transport http --method tools/list

3. A client's configuration:

    {{"mcpServers":{{"toolgate":{{"type":"http","url":"http://{listen}/mcp"}}}}}}

Every call is one line here. Ctrl-C stops.
"#
        )
    }

    /// The settings, and the fleet that must run beside the gateway.
    pub fn into_parts(self) -> (Settings, Box<dyn ServiceWithDependents>) {
        let mut service = background_service("demo", Running(Mutex::new(Some(self.fleet))));
        service.threads = Some(1);
        (self.settings, Box::new(service))
    }
}

struct Running(Mutex<Option<Fleet>>);

#[async_trait]
impl BackgroundService for Running {
    async fn start(&self, shutdown: ShutdownWatch) {
        let fleet = self.0.lock().take();
        if let Some(fleet) = fleet {
            fleet.serve(shutdown).await;
        }
    }
}

fn configuration(listen: SocketAddr, fleet: &Fleet) -> String {
    // Nothing of the demo outlives it: the session key is made up here and not kept.
    let key: String = (0..48).map(|_| fastrand::alphanumeric()).collect();
    // The servers start with the gateway, so there is nobody to list before it is ready.
    let mut yaml = format!(
        "listen: {listen}\nsessions: {{ keys: [\"{key}\"] }}\ntelemetry: {{ requests: text }}\ncatalog: {{ ready_within: 0s }}\nservers:\n"
    );
    for (name, addresses) in fleet.endpoints() {
        let urls: Vec<_> =
            addresses.iter().map(|address| format!("\"http://{address}/mcp\"")).collect();
        yaml.push_str(&format!("  {name}: {{ endpoints: [{}] }}\n", urls.join(", ")));
    }
    yaml.push_str("routes:\n  - { path: /mcp, server: everything }\n");
    yaml.push_str("  - { path: /notes/mcp, server: notes }\n");
    yaml
}
