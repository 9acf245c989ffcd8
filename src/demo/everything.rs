//! The demo server `everything`: one tool, prompt or resource for each thing a gateway must carry.

use super::{arguments, failure, text, typed, unknown_tool, unsent};
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, GetPromptRequestParams,
    GetPromptResponse, GetPromptResult, Implementation, ListPromptsResult, ListResourcesResult,
    ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, PromptMessage,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ResourceContents, Role,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

const WELCOME_URI: &str = "demo://welcome";
const WELCOME: &str = "Welcome to Toolgate. Three replicas of this server stand behind one \
    address. Call `whoami` a few times in one session and from a new one: a session stays with \
    its replica, new sessions are spread. `slow_count` streams progress, `fail` shows what a \
    tool's own error looks like.";

/// One replica.
#[derive(Debug, Clone)]
pub(super) struct Everything {
    number: usize,
    of: usize,
}

#[derive(Deserialize)]
struct Echo {
    text: String,
}

#[derive(Deserialize)]
struct Add {
    a: f64,
    b: f64,
}

#[derive(Deserialize)]
#[serde(default)]
struct SlowCount {
    to: u32,
    pause_ms: u64,
}

impl Default for SlowCount {
    fn default() -> Self {
        Self { to: 5, pause_ms: 300 }
    }
}

impl Everything {
    /// Replica `number`, counted from one, `of` so many.
    pub(super) fn new(number: usize, of: usize) -> Self {
        Self { number, of }
    }

    fn whoami(&self, context: &RequestContext<RoleServer>) -> CallToolResult {
        let parts = context.extensions.get::<http::request::Parts>();
        let session = parts.and_then(|parts| parts.headers.get("mcp-session-id")?.to_str().ok());
        let session = session.map_or_else(|| "no session".into(), |id| format!("session {id}"));
        text(format!("replica {} of {}, {session}", self.number, self.of))
    }
}

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_prompts()
            .enable_resources()
            .enable_tools()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("everything", env!("CARGO_PKG_VERSION")))
            .with_instructions(WELCOME)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let number = json!({ "type": "number" });
        let reads = json!({ "readOnlyHint": true });
        Ok(ListToolsResult::with_all_items(typed(json!([
            { "name": "echo", "description": "Says back what you say", "annotations": reads,
              "inputSchema": { "type": "object", "required": ["text"],
                               "properties": { "text": { "type": "string" } } } },
            { "name": "add", "description": "Adds two numbers", "annotations": reads,
              "inputSchema": { "type": "object", "required": ["a", "b"],
                               "properties": { "a": number, "b": number } } },
            { "name": "slow_count", "annotations": reads,
              "description": "Counts with pauses and reports progress on the way",
              "inputSchema": { "type": "object", "properties": {
                  "to": { "type": "integer", "minimum": 1, "maximum": 100, "default": 5 },
                  "pause_ms": { "type": "integer", "minimum": 0, "maximum": 5000,
                                "default": 300 } } } },
            { "name": "whoami", "annotations": reads, "inputSchema": { "type": "object" },
              "description": "Tells which replica answers, and in which session" },
            { "name": "fail", "annotations": reads, "inputSchema": { "type": "object" },
              "description": "Always fails, as a tool fails" },
        ]))?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let result = match request.name.as_ref() {
            "echo" => text(arguments::<Echo>(request)?.text),
            "add" => {
                let Add { a, b } = arguments(request)?;
                text((a + b).to_string())
            }
            "slow_count" => slow_count(arguments(request)?, &context).await?,
            "whoami" => self.whoami(&context),
            "fail" => failure("This tool always fails; the call itself went through."),
            _ => return Err(unknown_tool(&request)),
        };
        Ok(result.into())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(typed(json!([
            { "name": "tour", "description": "A short tour of this server",
              "arguments": [{ "name": "language", "description": "The language of the tour" }] },
        ]))?))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name != "tour" {
            let unknown = format!("unknown prompt {}", request.name);
            return Err(ErrorData::invalid_params(unknown, None));
        }
        let language = request.arguments.as_ref().and_then(|all| all.get("language")?.as_str());
        let message = format!(
            "Call whoami, then slow_count, then whoami again. Tell me in {} what you saw and \
             whether the same replica answered both times.",
            language.unwrap_or("English")
        );
        Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, message)]).into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(typed(json!([
            { "uri": WELCOME_URI, "name": "welcome", "mimeType": "text/plain",
              "description": "What to try first" },
        ]))?))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != WELCOME_URI {
            let uri = json!({ "uri": request.uri });
            return Err(ErrorData::resource_not_found("Resource not found", Some(uri)));
        }
        let contents = ResourceContents::text(WELCOME, WELCOME_URI).with_mime_type("text/plain");
        Ok(ReadResourceResult::new(vec![contents]).into())
    }
}

async fn slow_count(
    wanted: SlowCount,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResult, ErrorData> {
    let (to, pause_ms) = (wanted.to.clamp(1, 100), wanted.pause_ms.min(5000));
    let token = context.meta.get_progress_token();
    for count in 1..=to {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
            () = context.ct.cancelled() => return Ok(failure(format!("stopped before {count}"))),
        }
        if let Some(token) = token.clone() {
            let step = ProgressNotificationParam::new(token, count.into())
                .with_total(to.into())
                .with_message(format!("{count} of {to}"));
            context.peer.notify_progress(step).await.map_err(unsent)?;
        }
    }
    Ok(text(format!("counted to {to}")))
}
