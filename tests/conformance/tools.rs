//! Tools that end in one answer: contents, progress, logging, legacy questions to the client.

use super::offer::{PNG, WAV, typed};
use super::{Change, Fixture};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock,
    ErrorData, LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam,
    ProtocolVersion, ServerRequest,
};
use rmcp::service::{RequestContext, RoleServer, ServiceError};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// The pause between two notifications of one call.
const STEP: Duration = Duration::from_millis(50);

/// How many calls of one session `test_reconnection` reckons with.
const STREAMS_PER_SESSION_MAX: u64 = 256;

/// Runs one tool to its end.
pub(crate) async fn call(
    fixture: &Fixture,
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let name = request.name.as_ref();
    let argument = |name: &str| {
        let arguments = request.arguments.as_ref();
        arguments.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or_default()
    };
    let result = match name {
        "test_error_handling" => failure("This tool intentionally returns an error for testing"),
        "greet" => text(format!("Hello, {}!", argument("name"))),
        "test_x_mcp_header" => text(format!("region={}", argument("region"))),
        "test_tool_with_progress" => with_progress(&context).await?,
        "test_tool_with_logging" | "test_logging_tool" => with_logging(&context).await?,
        "test_reconnection" => without_its_stream(fixture, &context).await?,
        "test_missing_capability" => with_sampling(&context)?,
        "test_sampling" => ask_model(&context, argument("prompt")).await?,
        "test_elicitation" => {
            let asked = schema_of_a_user();
            ask_user(&context, argument("message"), asked, "User response").await?
        }
        "test_elicitation_sep1034_defaults" => {
            let asked = schema_with_defaults();
            ask_user(&context, "Please check these", asked, "Elicitation completed").await?
        }
        "test_elicitation_sep1330_enums" => {
            let asked = schema_with_enums();
            ask_user(&context, "Please choose", asked, "Elicitation completed").await?
        }
        "test_trigger_tool_change" => announce(fixture, &context, Change::Tools).await?,
        "test_trigger_prompt_change" => announce(fixture, &context, Change::Prompts).await?,
        _ => match fixed(name) {
            Some(content) => CallToolResult::success(typed(content)?),
            None => return Err(ErrorData::invalid_params(format!("unknown tool {name}"), None)),
        },
    };
    Ok(result.into())
}

/// A result of one text.
pub(crate) fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A tool's own failure, which is a result and no protocol error.
pub(crate) fn failure(text: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// Whether the request is of the stateless era, in which servers may not ask on their own.
pub(crate) fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    let version = context.protocol_version();
    version.is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

fn fixed(name: &str) -> Option<Value> {
    let image = json!({ "type": "image", "data": PNG, "mimeType": "image/png" });
    let resource = |uri: &str, mime: &str, text: &str| {
        let contents = json!({ "uri": uri, "mimeType": mime, "text": text });
        json!({ "type": "resource", "resource": contents })
    };
    let embedded = "This is an embedded resource content.";
    let mixed = r#"{"test":"data","value":123}"#;
    Some(match name {
        "test_simple_text" => {
            json!([{ "type": "text", "text": "This is a simple text response for testing." }])
        }
        "test_image_content" => json!([image]),
        "test_audio_content" => {
            json!([{ "type": "audio", "data": WAV, "mimeType": "audio/wav" }])
        }
        "test_embedded_resource" => {
            json!([resource("test://embedded-resource", "text/plain", embedded)])
        }
        "test_multiple_content_types" => json!([
            { "type": "text", "text": "Multiple content types test:" },
            image,
            resource("test://mixed-content-resource", "application/json", mixed),
        ]),
        "json_schema_2020_12_tool" => json!([{ "type": "text", "text": "accepted" }]),
        _ => return None,
    })
}

async fn with_progress(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let token = context.meta.get_progress_token();
    for progress in [0.0, 50.0, 100.0] {
        if let Some(token) = token.clone() {
            let step = ProgressNotificationParam::new(token, progress).with_total(100.0);
            context.peer.notify_progress(step).await.map_err(unsent)?;
        }
        sleep(STEP).await;
    }
    Ok(text("Progress completed"))
}

async fn with_logging(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    // The modern era logs only for a request that names a level.
    let wanted = !is_modern(context) || context.meta.log_level().is_some();
    for line in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        if wanted {
            let line = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(line));
            context.peer.notify_logging_message(line).await.map_err(unsent)?;
        }
        sleep(STEP).await;
    }
    Ok(text("Logging completed"))
}

/// Closes the stream of its own call (legacy only): the client must come back for the result.
async fn without_its_stream(
    fixture: &Fixture,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResult, ErrorData> {
    let parts = context.extensions.get::<http::request::Parts>();
    let id = parts.and_then(|parts| parts.headers.get("mcp-session-id")?.to_str().ok());
    let session = match id {
        Some(id) => fixture.sessions.sessions.read().await.get(id).cloned(),
        None => None,
    };
    if let Some(session) = session {
        sleep(STEP).await;
        // rmcp numbers the streams of a session and does not tell a handler which is its own, so
        // all that are open are closed; the error for those that are not is what we expect.
        for stream in 0..STREAMS_PER_SESSION_MAX {
            drop(session.close_sse_stream(stream, Some(STEP)).await);
        }
        sleep(2 * STEP).await;
    }
    Ok(text("Reconnection test completed"))
}

fn with_sampling(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    if context.client_capabilities().is_some_and(|can| can.sampling.is_some()) {
        return Ok(text("The client can sample"));
    }
    let needed = ClientCapabilities::builder().enable_sampling().build();
    Err(ErrorData::missing_required_client_capability(needed))
}

async fn ask_model(
    context: &RequestContext<RoleServer>,
    prompt: &str,
) -> Result<CallToolResult, ErrorData> {
    if context.client_capabilities().is_none_or(|can| can.sampling.is_none()) {
        return Ok(failure("The client cannot sample"));
    }
    let answer = ask(
        context,
        json!({ "method": "sampling/createMessage", "params": { "maxTokens": 100, "messages": [
            { "role": "user", "content": { "type": "text", "text": prompt } }] } }),
    )
    .await?;
    let said = answer.pointer("/content/text").and_then(Value::as_str).unwrap_or_default();
    Ok(text(format!("LLM response: {said}")))
}

async fn ask_user(
    context: &RequestContext<RoleServer>,
    message: &str,
    requested_schema: Value,
    label: &str,
) -> Result<CallToolResult, ErrorData> {
    if context.client_capabilities().is_none_or(|can| can.elicitation.is_none()) {
        return Ok(failure("The client cannot elicit"));
    }
    let answer = ask(
        context,
        json!({ "method": "elicitation/create", "params": {
            "message": message, "requestedSchema": requested_schema } }),
    )
    .await?;
    let (action, content) = (answer["action"].as_str().unwrap_or_default(), &answer["content"]);
    Ok(text(format!("{label}: action={action}, content={content}")))
}

/// Sends a request to the client on the stream of the running call and waits for its answer.
async fn ask(context: &RequestContext<RoleServer>, question: Value) -> Result<Value, ErrorData> {
    let question: ServerRequest = typed(question)?;
    let answer = context.peer.send_request(question).await.map_err(unsent)?;
    serde_json::to_value(answer)
        .map_err(|problem| ErrorData::internal_error(problem.to_string(), None))
}

async fn announce(
    fixture: &Fixture,
    context: &RequestContext<RoleServer>,
    change: Change,
) -> Result<CallToolResult, ErrorData> {
    if !is_modern(context) {
        match change {
            Change::Tools => context.peer.notify_tool_list_changed().await,
            Change::Prompts => context.peer.notify_prompt_list_changed().await,
        }
        .map_err(unsent)?;
    }
    let listeners = fixture.changes.send(change).unwrap_or(0);
    Ok(text(format!("{listeners} listeners told")))
}

fn unsent(problem: ServiceError) -> ErrorData {
    ErrorData::internal_error(problem.to_string(), None)
}

fn schema_of_a_user() -> Value {
    json!({ "type": "object", "required": ["username", "email"], "properties": {
        "username": { "type": "string", "description": "User's response" },
        "email": { "type": "string", "description": "User's email address" } } })
}

fn schema_with_defaults() -> Value {
    json!({ "type": "object", "properties": {
        "name": { "type": "string", "default": "John Doe" },
        "age": { "type": "integer", "default": 30 },
        "score": { "type": "number", "default": 95.5 },
        "status": { "type": "string", "enum": ["active", "inactive", "pending"],
                    "default": "active" },
        "verified": { "type": "boolean", "default": true } } })
}

fn schema_with_enums() -> Value {
    let plain = json!({ "type": "string", "enum": ["option1", "option2", "option3"] });
    let titled = |kind: &str| {
        json!([
            { "const": "value1", "title": format!("First {kind}") },
            { "const": "value2", "title": format!("Second {kind}") },
            { "const": "value3", "title": format!("Third {kind}") },
        ])
    };
    json!({ "type": "object", "properties": {
        "untitledSingle": plain,
        "titledSingle": { "type": "string", "oneOf": titled("Option") },
        "legacyEnum": { "type": "string", "enum": ["opt1", "opt2", "opt3"],
                        "enumNames": ["Option One", "Option Two", "Option Three"] },
        "untitledMulti": { "type": "array", "items": plain },
        "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } } } })
}
