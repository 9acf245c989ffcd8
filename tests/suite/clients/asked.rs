//! The official Rust SDK on both sides: what two servers, shown as one, tell and ask their client.
#![expect(deprecated, reason = "the legacy era still has logging and sampling")]

use super::{timely, two_servers};
use crate::support::gateway::Gateway;
use crate::support::rmcp_client::{Era, connect, step};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rmcp::handler::client::ClientHandler;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ClientConfig,
    ContentBlock, CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams,
    ElicitResult, ElicitationAction, ErrorData, Implementation, InputRequiredResult,
    ListToolsResult, LoggingLevel, LoggingMessageNotificationParam, PaginatedRequestParams,
    ProgressNotificationParam, ProtocolVersion, RequestMetaObject, SamplingMessage,
    ServerCapabilities, ServerConfig, ServerRequest,
};
use rmcp::service::{NotificationContext, RequestContext, RoleClient, RoleServer, RunningService};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[tokio::test]
async fn rmcp_in_the_legacy_era_is_told_and_asked_by_two_servers_as_one() {
    check(Era::Legacy).await;
}

#[tokio::test]
async fn rmcp_in_auto_mode_is_told_and_asked_by_two_servers_as_one() {
    check(Era::Auto).await;
}

async fn check(era: Era) {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
    ];
    let urls = listeners.each_ref().map(|listener| {
        let address = listener.local_addr().expect("an address");
        format!("http://{address}/mcp")
    });
    let [one, two] = listeners;
    let walk = async {
        let gateway = Gateway::start(&two_servers(&urls)).await;
        timely(be_told_and_asked(&format!("http://{}/mcp", gateway.address), era)).await
    };
    let outcome = tokio::select! {
        outcome = walk => outcome,
        () = Curious("one").serve(one) => Err("the first server ended".to_owned()),
        () = Curious("two").serve(two) => Err("the second server ended".to_owned()),
    };
    assert_eq!(outcome, Ok(()));
}

/// Calls both servers at the same time, in all that they need of their client.
async fn be_told_and_asked(url: &str, era: Era) -> Result<(), String> {
    let host = Host::default();
    let client = connect(url, era, host.clone()).await?;
    let expected: BTreeSet<String> = ["one", "two"]
        .iter()
        .flat_map(|name| (1..=3).map(move |at| format!("{name} {at}")))
        .flat_map(|line| [format!("progress: {line}"), format!("log: {line}")])
        .collect();
    // The stream of the session may open later than the first call comes, and what nobody listens
    // to is lost.
    for _ in 0..50 {
        let (first, second) =
            tokio::join!(call(&client, "tell", era), call(&client, "two_tell", era));
        assert_eq!((first?, second?), ("one told".to_owned(), "two told".to_owned()));
        if host.heard() == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(host.heard(), expected);
    for (tool, answer) in [("ask_user", "user: Who asks"), ("ask_model", "model: Who asks")] {
        let second = format!("two_{tool}");
        let (first, second) = tokio::join!(call(&client, tool, era), call(&client, &second, era));
        assert_eq!(first?, format!("one heard {answer} one?"), "{tool}");
        assert_eq!(second?, format!("two heard {answer} two?"), "{tool}");
    }
    client.cancel().await.map_err(step("close"))?;
    Ok(())
}

/// The text of a call that must succeed.
async fn call(
    client: &RunningService<RoleClient, Host>,
    name: &str,
    era: Era,
) -> Result<String, String> {
    let mut request = CallToolRequestParams::new(name.to_owned());
    if let Era::Auto = era {
        // A modern server logs only for a request that names a level.
        let mut meta = RequestMetaObject::default();
        meta.set_log_level(LoggingLevel::Debug);
        request.meta = Some(meta);
    }
    let result = client.call_tool(request).await.map_err(step(name))?;
    let text = result.content.first().and_then(|content| content.as_text());
    text.map(|text| text.text.clone()).ok_or_else(|| format!("{name}: {result:?}"))
}

/// A client with a user and a model, which remembers what it was told.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<BTreeSet<String>>>);

impl Host {
    fn heard(&self) -> BTreeSet<String> {
        self.0.lock().expect("no panic").clone()
    }

    fn hear(&self, line: String) {
        self.0.lock().expect("no panic").insert(line);
    }
}

impl ClientHandler for Host {
    fn get_info(&self) -> ClientConfig {
        let capabilities =
            ClientCapabilities::builder().enable_elicitation().enable_sampling().build();
        ClientConfig::new(capabilities, Implementation::new("suite", "1"))
    }

    async fn create_message(
        &self,
        params: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let asked = serde_json::to_value(&params.messages).expect("messages");
        let asked = asked.pointer("/0/content/text").and_then(Value::as_str).unwrap_or_default();
        let said = SamplingMessage::assistant_text(format!("model: {asked}"));
        Ok(CreateMessageResult::new(said, "none".to_owned()))
    }

    async fn create_elicitation(
        &self,
        params: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, .. } = params else {
            return Err(ErrorData::invalid_params("a form was expected", None));
        };
        let content = json!({ "answer": format!("user: {message}") });
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(content))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.hear(format!("progress: {}", params.message.unwrap_or_default()));
    }

    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.hear(format!("log: {}", params.data.as_str().unwrap_or_default()));
    }
}

/// A server that tells and asks, and says its name.
#[derive(Clone, Copy)]
struct Curious(&'static str);

impl Curious {
    /// Answers MCP until it is dropped.
    async fn serve(self, listener: TcpListener) {
        let (sessions, config) = (Arc::default(), StreamableHttpServerConfig::default());
        let service: StreamableHttpService<Self, LocalSessionManager> =
            StreamableHttpService::new(move || Ok(self), sessions, config);
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.handle(request).await) }
            });
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    }

    async fn tell(self, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
        for at in 1..=3_u8 {
            let line = format!("{} {at}", self.0);
            if let Some(token) = context.meta.get_progress_token() {
                let step = ProgressNotificationParam::new(token, f64::from(at));
                let told = context.peer.notify_progress(step.with_message(&line)).await;
                told.map_err(|error| broken(&error))?;
            }
            let line = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(line));
            let told = context.peer.notify_logging_message(line).await;
            told.map_err(|error| broken(&error))?;
        }
        Ok(format!("{} told", self.0))
    }

    /// Asks the client in the way of its era; `at` is where its answer says what it says.
    async fn ask(
        self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
        (question, at): (Value, &str),
    ) -> Result<CallToolResponse, ErrorData> {
        let version = context.protocol_version();
        let is_modern = version.is_some_and(|version| version == ProtocolVersion::V_2026_07_28);
        let answer = match (&request.input_responses, is_modern) {
            (Some(answers), true) => typed(json!(answers.get("asked")))?,
            (None, true) => {
                let questions = typed(json!({ "asked": question }))?;
                let state = Some(format!("state of {}", self.0));
                return Ok(InputRequiredResult::new(Some(questions), state).into());
            }
            (_, false) => {
                let question: ServerRequest = typed(question)?;
                let answer = context.peer.send_request(question).await;
                json!(answer.map_err(|error| broken(&error))?)
            }
        };
        let is_its_own = request.request_state == is_modern.then(|| format!("state of {}", self.0));
        let said = answer.pointer(at).and_then(Value::as_str).filter(|_| is_its_own);
        let said = said.unwrap_or_default();
        Ok(text(format!("{} heard {said}", self.0)))
    }
}

impl ServerHandler for Curious {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_logging().build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new(self.0, "1"))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = ["tell", "ask_user", "ask_model"]
            .map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }));
        Ok(ListToolsResult::with_all_items(typed(json!(tools))?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let asked = format!("Who asks {}?", self.0);
        let question = match &*request.name {
            "tell" => return self.tell(&context).await.map(text),
            "ask_user" => {
                let schema = json!({ "type": "object", "properties": {
                    "answer": { "type": "string" } } });
                let params = json!({ "message": asked, "requestedSchema": schema });
                (json!({ "method": "elicitation/create", "params": params }), "/content/answer")
            }
            "ask_model" => {
                let message =
                    json!({ "role": "user", "content": { "type": "text", "text": asked } });
                let params = json!({ "maxTokens": 9, "messages": [message] });
                (json!({ "method": "sampling/createMessage", "params": params }), "/content/text")
            }
            name => return Err(ErrorData::invalid_params(format!("unknown tool {name}"), None)),
        };
        self.ask(&request, &context, question).await
    }
}

fn text(text: String) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}

fn typed<T: DeserializeOwned>(json: Value) -> Result<T, ErrorData> {
    serde_json::from_value(json).map_err(|error| broken(&error))
}

fn broken(error: &dyn std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
