//! Speaks to an endpoint as an MCP client of either era, to hear what it offers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::events::Events;
use super::message::{Greeting, Reply, reply_of, tells_of_change};
use super::offer::Kind;
use super::page::Page;
use super::told::{List, Told};
use crate::mcp::{Era, MCP_METHOD, MCP_PROTOCOL_VERSION, MCP_SESSION_ID, Revision};
use crate::upstream::{AskFault, Asked, Connectors, Endpoint, Field, Opened, Question};

/// One answer.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// All answers of one listing.
const LISTING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A list that goes on after so many pages is not read further.
const PAGES_MAX: usize = 64;
/// The longest wait for one answer, whatever the server's settings allow its callers.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the end of a session may take.
const END_MAX: Duration = Duration::from_secs(1);
/// What a server says of itself is kept; longer is too long.
const GREETING_BYTES_MAX: usize = 256 * 1024;
/// Longer session ids are none.
const SESSION_BYTES_MAX: usize = 4096;

const MODERN: Revision = Revision::V2026_07_28;
const LEGACY: Revision = Revision::V2025_11_25;
/// Who asks.
const USER_AGENT: &str = concat!("toolgate/", env!("CARGO_PKG_VERSION"), " (catalog)");
/// What a modern server is asked to tell of changes by.
const LISTEN: &str = "subscriptions/listen";
/// Larger events do not tell of a change.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// A stream that ends sooner is not worth opening again at once.
const STREAM_MIN: Duration = Duration::from_secs(10);
/// The code of a method that a server does not know.
const METHOD_NOT_FOUND: i64 = -32601;

/// A conversation with one endpoint. Its session, if it has one, is to be ended by [`Self::end`].
pub(super) struct Conversation {
    connectors: Arc<Connectors>,
    /// What lets the gateway in.
    credential: Option<Field>,
    endpoint: Arc<Endpoint>,
    answer_max: Duration,
    manner: Manner,
    asked: u64,
    bytes_left: usize,
    /// Whether the server has said that it tells of changes.
    tells: bool,
}

/// How the endpoint is spoken to.
enum Manner {
    Modern,
    Legacy { session: Option<String>, revision: Option<Revision> },
}

/// What came of a stream that tells of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// There is none, or none that lasts.
    Deaf,
    /// It ended, as streams do.
    Over,
}

impl Conversation {
    pub(super) fn new(
        connectors: &Arc<Connectors>,
        endpoint: Arc<Endpoint>,
        credential: Option<Field>,
        first_byte: Duration,
    ) -> Self {
        Self {
            connectors: Arc::clone(connectors),
            endpoint,
            credential,
            answer_max: first_byte.min(ANSWER_MAX),
            manner: Manner::Modern,
            asked: 0,
            bytes_left: LISTING_BYTES_MAX,
            tells: false,
        }
    }

    fn server(&self) -> Asked<'_> {
        let Self { connectors, endpoint, credential, .. } = self;
        Asked { connectors, endpoint, credential: credential.as_ref() }
    }

    /// Hears everything, beginning in the era that the server was last spoken to in. May be dropped
    /// at any time, but [`Self::end`] must follow.
    pub(super) async fn list(&mut self, known: Option<Era>) -> Result<Told, AskFault> {
        let greeting = self.greet(known).await?;
        if greeting.len() > GREETING_BYTES_MAX {
            return Err(AskFault("its greeting is too long".to_owned()));
        }
        let read = serde_json::from_slice::<Greeting<'_>>(&greeting);
        let Greeting { capabilities, .. } = read.map_err(|error| no_greeting(&error))?;
        self.tells = capabilities.tells();
        let mut lists = Vec::with_capacity(Kind::ALL.len());
        for kind in Kind::ALL {
            lists.push(match capabilities.of(kind) {
                Some(_) => self.list_of(kind).await,
                None => List::default(),
            });
        }
        if lists.iter().all(|list| list.fault.is_some() && list.definitions.is_empty()) {
            let fault = lists.into_iter().find_map(|list| list.fault);
            return Err(AskFault(fault.unwrap_or_default()));
        }
        // A copy of its own: the bytes that it stands in are let go.
        let (era, tells) = (self.era(), self.tells);
        Ok(Told { era, greeting: Bytes::copy_from_slice(&greeting), tells, lists })
    }

    /// Ends the session, if there is one. A server that is gone keeps none.
    pub(super) async fn end(&mut self) {
        if let Manner::Legacy { session: Some(_), .. } = &self.manner {
            let question = Question {
                method: Method::DELETE,
                path: self.endpoint.path(),
                fields: self.fields(None),
                body: Bytes::new(),
            };
            let ended = async {
                let opened = self.server().open(&question).await?;
                self.server().close(opened).await;
                Ok::<_, AskFault>(())
            };
            let ended = timeout(END_MAX, ended).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::debug!(endpoint = self.endpoint.url(), "listing session not ended");
            }
            self.manner = Manner::Modern;
        }
    }

    /// Hears of changes until the stream ends, and whether there was one worth opening again.
    pub(super) async fn hear(&mut self, changed: impl Fn()) -> Hearing {
        if !self.tells {
            return Hearing::Deaf;
        }
        let opened = timeout(self.answer_max, self.open_stream()).await;
        let Ok(Ok(mut opened)) = opened else { return Hearing::Deaf };
        let media = opened.field("content-type").unwrap_or_default().to_ascii_lowercase();
        if opened.status() != 200 || !media.starts_with("text/event-stream") {
            self.server().close(opened).await;
            return Hearing::Deaf;
        }
        let began = Instant::now();
        let mut events = Events::default();
        while let Ok(Some(part)) = opened.part().await {
            events.push(&part);
            while let Some(event) = events.next() {
                if tells_of_change(&event) {
                    changed();
                }
            }
            if events.len() > EVENT_BYTES_MAX {
                break;
            }
        }
        match began.elapsed() < STREAM_MIN {
            true => Hearing::Deaf,
            false => Hearing::Over,
        }
    }

    /// Where the server tells of changes: the stream of the session, or one that is asked for.
    async fn open_stream(&mut self) -> Result<Opened, AskFault> {
        if let Manner::Legacy { .. } = &self.manner {
            let question = Question {
                method: Method::GET,
                path: self.endpoint.path(),
                fields: self.fields(None),
                body: Bytes::new(),
            };
            return self.server().open(&question).await;
        }
        let notifications = json!({ "toolsListChanged": true, "promptsListChanged": true,
            "resourcesListChanged": true });
        let message = json!({ "jsonrpc": "2.0", "id": "changes", "method": LISTEN,
            "params": { "notifications": notifications, "_meta": modern_claims() } });
        self.open(LISTEN, &message).await
    }

    /// The endpoint that is spoken to.
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn era(&self) -> Era {
        match self.manner {
            Manner::Modern => Era::Modern,
            Manner::Legacy { .. } => Era::Legacy,
        }
    }

    /// What the server says of itself. A server that does not let the gateway in, or fails, does so
    /// in every era; any other answer than the wanted one means the other era (SPEC.md 2.9).
    async fn greet(&mut self, known: Option<Era>) -> Result<Bytes, AskFault> {
        let first = known.unwrap_or(Era::Modern);
        let second = if first == Era::Modern { Era::Legacy } else { Era::Modern };
        match self.greet_in(first).await? {
            Reply::Result(greeting) => return Ok(greeting),
            Reply::Other(status @ (401 | 403 | 500..)) => return Err(refused(status)),
            Reply::Error(_) | Reply::Other(_) => {}
        }
        match self.greet_in(second).await? {
            Reply::Result(greeting) => Ok(greeting),
            Reply::Error(code) => Err(AskFault(format!("answered with the JSON-RPC error {code}"))),
            Reply::Other(status) => Err(refused(status)),
        }
    }

    async fn greet_in(&mut self, era: Era) -> Result<Reply, AskFault> {
        if era == Era::Modern {
            self.manner = Manner::Modern;
            let reply = self.ask("server/discover", json!({})).await?;
            let Reply::Result(greeting) = reply else { return Ok(reply) };
            let read: Greeting<'_> =
                serde_json::from_slice(&greeting).map_err(|error| no_greeting(&error))?;
            // A server that names only others wants to be spoken to in their way.
            let is_modern = read.versions.iter().any(|version| version == MODERN.as_str());
            return Ok(if is_modern { Reply::Result(greeting) } else { Reply::Other(200) });
        }
        self.manner = Manner::Legacy { session: None, revision: None };
        let hello = json!({ "protocolVersion": LEGACY.as_str(), "capabilities": {},
            "clientInfo": client() });
        let reply = self.ask("initialize", hello).await?;
        let Reply::Result(greeting) = &reply else { return Ok(reply) };
        let read: Greeting<'_> =
            serde_json::from_slice(greeting).map_err(|error| no_greeting(&error))?;
        if let Manner::Legacy { revision, .. } = &mut self.manner {
            *revision = read.version.and_then(|version| Revision::parse(&version));
        }
        self.notify("notifications/initialized").await?;
        Ok(reply)
    }

    /// One list, to its end or as far as it goes.
    async fn list_of(&mut self, kind: Kind) -> List {
        let mut list = List::default();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let params = match &cursor {
                Some(cursor) => json!({ "cursor": cursor }),
                None => json!({}),
            };
            let page = match self.ask(kind.method(), params).await {
                Ok(Reply::Result(result)) => Page::read(kind, &result),
                // Resources without templates are common, and so are capabilities in name only.
                Ok(Reply::Error(METHOD_NOT_FOUND)) if cursor.is_none() => return list,
                Ok(Reply::Error(code)) => Err(format!("the JSON-RPC error {code}")),
                Ok(Reply::Other(status)) => Err(format!("status {status}")),
                Err(fault) => Err(fault.0),
            };
            let page = match page {
                Ok(page) => page,
                Err(fault) => {
                    list.fault = Some(fault);
                    return list;
                }
            };
            let next = page.next_cursor.clone();
            if let Err(fault) = list.add(page) {
                list.fault = Some(fault);
                return list;
            }
            match next {
                None => return list,
                Some(next) if cursor.as_ref() == Some(&next) => {
                    list.fault = Some("its cursor leads to where it was".to_owned());
                    return list;
                }
                next => cursor = next,
            }
        }
        list.fault = Some(format!("it goes on after {PAGES_MAX} pages"));
        list
    }

    async fn notify(&mut self, method: &'static str) -> Result<(), AskFault> {
        let message = json!({ "jsonrpc": "2.0", "method": method });
        let sent = async {
            let opened = self.open(method, &message).await?;
            self.server().close(opened).await;
            Ok(())
        };
        timeout(self.answer_max, sent).await.unwrap_or_else(|_| Err(too_late()))
    }

    async fn ask(&mut self, method: &'static str, mut params: Value) -> Result<Reply, AskFault> {
        self.asked += 1;
        let id = self.asked;
        if let Manner::Modern = self.manner {
            params["_meta"] = modern_claims();
        }
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let within = self.answer_max;
        let asked = async {
            let mut opened = self.open(method, &message).await?;
            if let Manner::Legacy { session: session @ None, .. } = &mut self.manner {
                let given = opened.field(MCP_SESSION_ID).filter(|id| id.len() <= SESSION_BYTES_MAX);
                *session = given.map(str::to_owned);
            }
            let reply = self.read(&mut opened, id).await?;
            self.server().close(opened).await;
            Ok(reply)
        };
        timeout(within, asked).await.unwrap_or_else(|_| Err(too_late()))
    }

    async fn open(&self, method: &'static str, message: &Value) -> Result<Opened, AskFault> {
        let question = Question {
            method: Method::POST,
            path: self.endpoint.path(),
            fields: self.fields(Some(method)),
            body: Bytes::from(message.to_string()),
        };
        self.server().open(&question).await
    }

    fn fields(&self, method: Option<&'static str>) -> Vec<(&'static str, &str)> {
        // Servers must be ready to answer in either way, and refuse clients that accept only one.
        let mut fields =
            vec![("accept", "application/json, text/event-stream"), ("user-agent", USER_AGENT)];
        match &self.manner {
            Manner::Modern => {
                fields.push((MCP_PROTOCOL_VERSION, MODERN.as_str()));
                fields.extend(method.map(|method| (MCP_METHOD, method)));
            }
            Manner::Legacy { session, revision } => {
                fields.extend(session.as_deref().map(|session| (MCP_SESSION_ID, session)));
                let revision = revision.map(Revision::as_str);
                fields.extend(revision.map(|revision| (MCP_PROTOCOL_VERSION, revision)));
            }
        }
        fields
    }

    /// Reads until the answer to the request with this id. What the server asks in between is
    /// nobody's to answer: the gateway has said that it is capable of nothing.
    async fn read(&mut self, opened: &mut Opened, id: u64) -> Result<Reply, AskFault> {
        let status = opened.status();
        let media = opened.field("content-type").unwrap_or_default().to_ascii_lowercase();
        let mut read = 0;
        if media.starts_with("text/event-stream") && status == 200 {
            let mut events = Events::default();
            while let Some(part) = opened.part().await? {
                self.take(part.len(), &mut read)?;
                events.push(&part);
                while let Some(event) = events.next() {
                    if let Some(reply) = reply_of(&Bytes::from(event), id) {
                        return Ok(reply);
                    }
                }
            }
            return Err(AskFault("its stream ended without an answer".to_owned()));
        }
        if !media.starts_with("application/json") {
            return Ok(Reply::Other(status));
        }
        let mut body = BytesMut::new();
        while let Some(part) = opened.part().await? {
            self.take(part.len(), &mut read)?;
            body.extend_from_slice(&part);
        }
        match reply_of(&body.freeze(), id) {
            Some(Reply::Result(_)) if status != 200 => Ok(Reply::Other(status)),
            Some(Reply::Error(code)) if !matches!(status, 401 | 403 | 500..) => {
                Ok(Reply::Error(code))
            }
            Some(Reply::Result(result)) => Ok(Reply::Result(result)),
            Some(_) | None => Ok(Reply::Other(status)),
        }
    }

    fn take(&mut self, bytes: usize, read: &mut usize) -> Result<(), AskFault> {
        *read += bytes;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        match *read > ANSWER_BYTES_MAX || self.bytes_left == 0 {
            true => Err(AskFault("it is too long".to_owned())),
            false => Ok(()),
        }
    }
}

fn modern_claims() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN.as_str(),
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client(),
    })
}

fn client() -> Value {
    json!({ "name": "toolgate", "version": env!("CARGO_PKG_VERSION") })
}

fn no_greeting(error: &serde_json::Error) -> AskFault {
    AskFault(format!("its greeting is none: {error}"))
}

fn refused(status: u16) -> AskFault {
    AskFault(format!("answered with status {status}"))
}

fn too_late() -> AskFault {
    AskFault("did not answer in time".to_owned())
}
