//! Many servers as one, on real calls: what is shown, where a call goes, and what a session is then.

mod calls;
mod check;
mod hostile;
mod lists;
mod sessions;
mod tasks;

use crate::support::client::{self, Answer};
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::upstream::{Request, Step, Upstream, json_answer, plain};
use serde_json::{Value, json};
use std::net::SocketAddr;

const ON: &str = "catalog: { listing: on, refresh: 1h }\n";

/// How a server can be spoken to.
#[derive(Clone, Copy, PartialEq)]
enum Eras {
    Legacy,
    Modern,
    Both,
}

/// A server as others see it: its lists as they stand on the wire, by the key of the result.
#[derive(Clone)]
struct Server {
    name: &'static str,
    eras: Eras,
    lists: Vec<(&'static str, String)>,
}

impl Server {
    /// A server with these tools, which any client may ask in either era.
    fn with_tools(name: &'static str, tools: &[&str]) -> Self {
        let tools: Vec<Value> = tools.iter().map(|tool| definition(tool)).collect();
        Self { name, eras: Eras::Both, lists: vec![("tools", json!(tools).to_string())] }
    }

    fn speaking(mut self, eras: Eras) -> Self {
        self.eras = eras;
        self
    }

    fn and(mut self, key: &'static str, list: impl Into<String>) -> Self {
        self.lists.push((key, list.into()));
        self
    }

    /// What it answers if nothing else is said.
    fn answer(&self, request: &Request) -> Vec<Step> {
        let (message, method) = (request.json(), request.method());
        let id = &message["id"];
        let is_modern = request.field("mcp-protocol-version") == Some("2026-07-28");
        let speaks = match is_modern {
            true => self.eras != Eras::Legacy,
            false => self.eras != Eras::Modern,
        };
        let list = |key: &str| self.lists.iter().find(|(known, _)| *known == key);
        match (request.verb.as_str(), method.as_str()) {
            ("DELETE", _) => vec![plain(204, "", b"")],
            ("GET", _) => vec![plain(405, "", b"")],
            ("POST", "notifications/initialized") => vec![plain(202, "", b"")],
            _ if !speaks => error(request, if is_modern { 400 } else { 200 }, -32601),
            ("POST", "server/discover") => {
                let versions = match self.eras {
                    Eras::Both => json!(["2026-07-28", "2025-11-25"]),
                    _ => json!(["2026-07-28"]),
                };
                success(
                    request,
                    "",
                    json!({ "supportedVersions": versions, "capabilities": self.capabilities(),
                        "instructions": format!("I am {}.", self.name),
                        "resultType": "complete", "ttlMs": 60_000, "cacheScope": "public" }),
                )
            }
            ("POST", "initialize") => success(
                request,
                &format!("mcp-session-id: {}-session\r\n", self.name),
                json!({ "protocolVersion": "2025-11-25", "capabilities": self.capabilities(),
                    "instructions": format!("I am {}.", self.name),
                    "serverInfo": { "name": self.name, "version": "1" } }),
            ),
            (
                "POST",
                "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list",
            ) => {
                let key = match method.as_str() {
                    "resources/templates/list" => "resourceTemplates",
                    other => other.trim_end_matches("/list"),
                };
                let list = list(key).map_or("[]", |(_, list)| list.as_str());
                let caching = match is_modern {
                    true => r#""resultType":"complete","ttlMs":3600000,"cacheScope":"public","#,
                    false => "",
                };
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{{caching}"{key}":{list}}}}}"#
                );
                vec![plain(200, "content-type: application/json\r\n", body.as_bytes())]
            }
            ("POST", "tools/call") => {
                let said = format!("{}: {}", self.name, message["params"]["name"]);
                let mut result = json!({ "content": [{ "type": "text", "text": said }] });
                if is_modern {
                    result["resultType"] = json!("complete");
                }
                success(request, "", result)
            }
            ("POST", "subscriptions/listen") => error(request, 404, -32601),
            ("POST", _) if id.is_null() || message["method"].is_null() => {
                vec![plain(202, "", b"")]
            }
            ("POST", _) => success(request, "", json!({ "is": self.name })),
            _ => vec![plain(405, "", b"")],
        }
    }

    fn capabilities(&self) -> Value {
        let mut capabilities = json!({ "tools": {}, "logging": {} });
        for (key, _) in &self.lists {
            match *key {
                "resourceTemplates" | "resources" => {
                    capabilities["resources"] = json!({ "subscribe": true });
                }
                "tasks" => capabilities["tasks"] = json!({ "list": {} }),
                key => capabilities[key] = json!({}),
            }
        }
        capabilities
    }

    async fn start(self) -> Upstream {
        self.start_with(|_| None).await
    }

    /// The server, where `script` may answer first. What the gateway itself lists is not asked for.
    async fn start_with(
        self,
        script: impl Fn(&Request) -> Option<Vec<Step>> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::start(move |request| self.script(request, &script)).await
    }

    async fn start_at(self, address: SocketAddr) -> Upstream {
        Upstream::start_at(address, move |request| self.script(request, &|_: &Request| None)).await
    }

    fn script(
        &self,
        request: &Request,
        script: &impl Fn(&Request) -> Option<Vec<Step>>,
    ) -> Vec<Step> {
        let said = if is_listing(request) { None } else { script(request) };
        said.unwrap_or_else(|| self.answer(request))
    }
}

fn definition(name: &str) -> Value {
    json!({ "name": name, "inputSchema": { "type": "object" } })
}

fn success(request: &Request, fields: &str, result: Value) -> Vec<Step> {
    let id = &request.json()["id"];
    json_answer(200, fields, &json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn error(request: &Request, status: u16, code: i64) -> Vec<Step> {
    let error = json!({ "code": code, "message": "no" });
    let id = &request.json()["id"];
    json_answer(status, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}

/// Whether the gateway asks for itself what the server offers.
fn is_listing(request: &Request) -> bool {
    request.field("user-agent").is_some_and(|agent| agent.contains("(catalog)"))
}

/// What a server has heard since it was last asked, but for the gateway's own listing.
fn heard(upstream: &Upstream) -> Vec<Request> {
    upstream.take().into_iter().filter(|request| !is_listing(request)).collect()
}

fn methods(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::method).collect()
}

/// The configuration of one route over these servers: its members as they stand in YAML.
fn sections(servers: &[(&str, String)], members: &str, more: &str) -> String {
    let of = |(name, url): &(&str, String)| format!("  {name}: {{ endpoints: [{url}] }}\n");
    let servers: String = servers.iter().map(of).collect();
    let keys = ["ann", "bob"].map(|caller| {
        let digest = ring::digest::digest(&ring::digest::SHA256, key(caller).as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{ caller: {caller}, sha256: {hex} }}")
    });
    let identity = format!("identity: {{ anonymous: allow, api_keys: [{}] }}\n", keys.join(", "));
    let catalog = if more.contains("catalog:") { "" } else { ON };
    format!("servers:\n{servers}routes: [{{ path: /mcp, {members} }}]\n{identity}{catalog}{more}")
}

fn key(caller: &str) -> String {
    format!("key-of-{caller}")
}

/// The message, sent by this caller.
fn by(caller: &str, message: Message) -> Message {
    message.field("authorization", &format!("Bearer {}", key(caller)))
}

/// One route before two servers: the names of `github` have a prefix, those of `files` have none.
struct Pair {
    gateway: Gateway,
    github: Upstream,
    files: Upstream,
}

const MEMBERS: &str = "servers: [{ name: github, prefix: github_ }, { name: files }]";

impl Pair {
    async fn of(github: Upstream, files: Upstream, more: &str) -> Self {
        Self::with(github, files, MEMBERS, more).await
    }

    async fn with(github: Upstream, files: Upstream, members: &str, more: &str) -> Self {
        let servers = [("github", github.url()), ("files", files.url())];
        let gateway = Gateway::start(&sections(&servers, members, more)).await;
        let pair = Self { gateway, github, files };
        pair.forget();
        pair
    }

    /// Two servers of both eras, with two tools each.
    async fn plain(more: &str) -> Self {
        let github = Server::with_tools("github", &["search", "open"]).start().await;
        let files = Server::with_tools("files", &["read", "write"]).start().await;
        Self::of(github, files, more).await
    }

    async fn ask(&self, message: &Message) -> Answer {
        client::exchange(self.gateway.address, &message.bytes()).await
    }

    /// What both servers have heard is forgotten.
    fn forget(&self) {
        self.github.take();
        self.files.take();
    }

    /// Nobody has heard anything.
    fn nobody_heard(&self, what: &str) {
        for upstream in [&self.github, &self.files] {
            let heard = heard(upstream);
            assert!(heard.is_empty(), "{what}: {heard:?}");
        }
    }

    /// Opens a legacy session and forgets how.
    async fn open_session(&self) -> String {
        let answer = self.ask(&Message::initialize()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.forget();
        answer.session()
    }
}

/// The same with one character changed.
fn forged(sealed: &str) -> String {
    let mut forged = sealed.to_owned();
    let at = forged.len() / 2;
    let other = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    forged
}

/// The names in a list, by the key of the result.
fn names(answer: &Answer, key: &str) -> Vec<String> {
    let list = &answer.json()["result"][key];
    let list = list.as_array().unwrap_or_else(|| panic!("no {key}: {}", answer.text()));
    let name = |of: &Value| {
        let name = ["uri", "uriTemplate", "name"].iter().find_map(|key| of[*key].as_str());
        name.expect("a name").to_owned()
    };
    list.iter().map(name).collect()
}

/// The text of the result of a tool.
fn said(answer: &Answer) -> String {
    let text = answer.json()["result"]["content"][0]["text"].as_str().map(str::to_owned);
    text.unwrap_or_else(|| panic!("no result: {} {}", answer.status, answer.text()))
}
