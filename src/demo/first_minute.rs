//! The gateway's side of the demo: its settings, what to paste, and the fleet as a service.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::ServiceWithDependents;
use pingora::services::background::{BackgroundService, background_service};

use super::Fleet;
use crate::config::{self, Settings};
use crate::identity::NewKey;

/// What the demo writes down.
const CONFIGURATION: &str = "toolgate.yaml";
const RECORD: &str = "audit.jsonl";
/// How many calls of one tool a caller may make at once.
const CALLS_AT_ONCE: u32 = 20;

/// A gateway and its fleet, ready to run.
pub struct Demo {
    listen: SocketAddr,
    settings: Settings,
    fleet: Fleet,
    folder: PathBuf,
    key: NewKey,
}

impl Demo {
    /// Takes the ports and writes the configuration, into a folder of its own that stays. Where
    /// `listen` is in use or port 0, any free port is taken.
    pub fn prepare(listen: SocketAddr) -> io::Result<Self> {
        let fleet = Fleet::bind()?;
        let listen = match TcpListener::bind(listen) {
            Ok(taken) => taken.local_addr()?,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                TcpListener::bind((listen.ip(), 0))?.local_addr()?
            }
            Err(error) => return Err(error),
        };
        let (folder, key) = (make_folder()?, NewKey::random().map_err(io::Error::other)?);
        let yaml = configuration(listen, &fleet, &key, &folder);
        fs::write(folder.join(CONFIGURATION), &yaml)?;
        let settings = config::parse(&yaml, "demo", &|_| None)
            .map_err(|problems| io::Error::other(problems.to_string()))?;
        Ok(Self { listen, settings, fleet, folder, key })
    }

    /// What a new user reads first.
    pub fn greeting(&self) -> String {
        let Self { listen, key, .. } = self;
        let (configuration, record) = (self.folder.join(CONFIGURATION), self.folder.join(RECORD));
        let (configuration, record) = (configuration.display(), record.display());
        // However it was started, it can be started again so.
        let program = std::env::current_exe().unwrap_or_else(|_| "toolgate".into());
        let program = program.display();
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

Three more, for what the gateway decides by {configuration}:

4. Everybody may read notes, and only the caller `writer` may add one. For anybody else the tool is not
   there; with -H 'Authorization: Bearer {key}' it is:

    curl -s http://{listen}/notes/mcp -H 'Content-Type: application/json' \
      -H 'Accept: application/json, text/event-stream' \
      -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/call' -H 'Mcp-Name: add_note' \
      -d '{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"add_note","arguments":{{"title":"first","text":"kept"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}'

5. Why, before anybody calls:

    {program} explain --config {configuration} --caller anonymous --tool notes/add_note

6. And afterwards, from the record; more than {CALLS_AT_ONCE} calls of one tool at once are in it as refused, too:

    {program} audit tail {record} --follow

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

/// A folder that nobody else can read or has made.
fn make_folder() -> io::Result<PathBuf> {
    let random: String = (0..8).map(|_| fastrand::alphanumeric()).collect();
    let folder = std::env::temp_dir().join(format!("toolgate-demo-{random}"));
    DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

fn configuration(listen: SocketAddr, fleet: &Fleet, writer: &NewKey, folder: &Path) -> String {
    // No session of the demo outlives it: their key is made up here.
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
    let (writer, record) = (writer.line("writer"), folder.join(RECORD));
    let record = serde_json::Value::from(record.display().to_string());
    yaml.push_str(&format!(
        "identity:
  anonymous: allow
  api_keys:
    {writer}
policy:
  rules:
    - {{ name: everything, allow: {{ servers: [everything] }} }}
    - {{ name: readers, allow: {{ tools: [notes/list_notes, notes/read_note] }} }}
    - {{ name: writers, allow: {{ callers: [writer], tools: [notes/add_note] }} }}
limits:
  - {{ name: pace, key: [caller, tool], rate: 5/s, burst: {CALLS_AT_ONCE} }}
audit: {{ sinks: [{{ file: {record} }}] }}
"
    ));
    yaml
}
