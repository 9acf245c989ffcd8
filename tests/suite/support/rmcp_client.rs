//! The official Rust SDK as a client, on a walk through all the demo server `everything` offers.

use rmcp::handler::client::ClientHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, GetPromptRequestParams, JsonObject,
    ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient, RunningService,
};
use rmcp::transport::StreamableHttpClientTransport;
use serde_json::{Value, json};
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the client opens the conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Era {
    /// `initialize`, a session, 2025-11-25.
    Legacy,
    /// `server/discover` first, as a client does that speaks both eras.
    Auto,
}

/// Lists, calls, follows progress, reads and prompts; the error says which step went wrong.
pub(crate) async fn exercise(url: &str, era: Era) -> Result<(), String> {
    let progress = Progress::default();
    let client = connect(url, era, progress.clone()).await?;
    let tools = client.list_all_tools().await.map_err(step("tools/list"))?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    same("tools/list", names, vec!["echo", "add", "slow_count", "whoami", "fail"])?;

    same("echo", call(&client, "echo", json!({ "text": "grüße" })).await?, "grüße".to_owned())?;
    same("add", call(&client, "add", json!({ "a": 2, "b": 3.5 })).await?, "5.5".to_owned())?;

    let counted = call(&client, "slow_count", json!({ "to": 3, "pause_ms": 30 })).await?;
    same("slow_count", counted, "counted to 3".to_owned())?;
    same("progress", progress.seen(3).await, vec![1.0, 2.0, 3.0])?;

    let first = call(&client, "whoami", json!({})).await?;
    match era {
        Era::Legacy => {
            same(
                "a session stays with its replica",
                call(&client, "whoami", json!({})).await?,
                first,
            )?;
        }
        Era::Auto if first.ends_with("no session") => {}
        Era::Auto => return Err(format!("whoami: a stateless call, yet {first:?}")),
    }

    let failed = tool(&client, "fail", json!({})).await?;
    same("fail", failed.is_error, Some(true))?;
    let unknown = tool(&client, "no_such_tool", json!({})).await;
    same("an unknown tool is an error", unknown.is_err(), true)?;

    let uri = "demo://welcome";
    let read = client.read_resource(ReadResourceRequestParams::new(uri)).await;
    let contents = read.map_err(step("resources/read"))?.contents;
    same("resources/read", contents.len(), 1)?;
    let tour = client.get_prompt(GetPromptRequestParams::new("tour")).await;
    same("prompts/get", tour.map_err(step("prompts/get"))?.messages.len(), 1)?;

    client.cancel().await.map_err(step("close"))?;
    Ok(())
}

/// The same of two servers that are shown as one: names of the second begin with `two_`.
pub(crate) async fn exercise_both(url: &str, era: Era) -> Result<(), String> {
    let progress = Progress::default();
    let client = connect(url, era, progress.clone()).await?;
    let tools = client.list_all_tools().await.map_err(step("tools/list"))?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    let own = ["echo", "add", "slow_count", "whoami", "fail"];
    let expected: Vec<String> =
        ["", "two_"].iter().flat_map(|prefix| own.map(|name| format!("{prefix}{name}"))).collect();
    same("tools/list", names, expected.iter().map(String::as_str).collect())?;
    for (echo, count) in [("echo", "slow_count"), ("two_echo", "two_slow_count")] {
        let said = call(&client, echo, json!({ "text": "grüße" })).await?;
        same(echo, said, "grüße".to_owned())?;
        let counted = call(&client, count, json!({ "to": 3, "pause_ms": 30 })).await?;
        same(count, counted, "counted to 3".to_owned())?;
    }
    same("progress", progress.seen(6).await, vec![1.0, 1.0, 2.0, 2.0, 3.0, 3.0])?;
    for (uri, prompt) in [("demo://welcome", "tour"), ("two+demo://welcome", "two_tour")] {
        let read = client.read_resource(ReadResourceRequestParams::new(uri)).await;
        same(uri, read.map_err(step("resources/read"))?.contents.len(), 1)?;
        let tour = client.get_prompt(GetPromptRequestParams::new(prompt)).await;
        same(prompt, tour.map_err(step("prompts/get"))?.messages.len(), 1)?;
    }
    let unknown = tool(&client, "two_no_such_tool", json!({})).await;
    same("an unknown tool is an error", unknown.is_err(), true)?;
    client.cancel().await.map_err(step("close"))?;
    Ok(())
}

/// Connects, and makes sure that the era is the one that was wanted.
pub(crate) async fn connect<H: ClientHandler>(
    url: &str,
    era: Era,
    handler: H,
) -> Result<RunningService<RoleClient, H>, String> {
    // Some of the features that the gateway builds reqwest with leave the choice to the program.
    drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
    let (lifecycle, wanted) = match era {
        Era::Legacy => (ClientLifecycleMode::Initialize, ProtocolVersion::V_2025_11_25),
        Era::Auto => {
            let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
            let lifecycle = ClientLifecycleMode::Auto { preferred_versions, legacy_version: None };
            (lifecycle, ProtocolVersion::V_2026_07_28)
        }
    };
    let transport = StreamableHttpClientTransport::from_uri(url);
    let client =
        handler.serve_with_lifecycle(transport, lifecycle).await.map_err(step("connect"))?;
    let spoken = client.peer_info().map(|server| server.protocol_version.clone());
    same("revision", spoken, Some(wanted))?;
    Ok(client)
}

/// A client that remembers the progress it was told.
#[derive(Debug, Clone, Default)]
struct Progress(Arc<Mutex<Vec<f64>>>);

impl Progress {
    /// The reports in ascending order. rmcp handles each notification in a task of its own, so the
    /// last ones may come in a moment after the result, and in any order.
    async fn seen(&self, wanted: usize) -> Vec<f64> {
        let mut seen = Vec::new();
        for _ in 0..100 {
            seen = self.0.lock().map(|seen| seen.clone()).unwrap_or_default();
            if seen.len() >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seen.sort_by(f64::total_cmp);
        seen
    }
}

impl ClientHandler for Progress {
    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        if let Ok(mut seen) = self.0.lock() {
            seen.push(params.progress);
        }
    }
}

/// The text of a call that must succeed.
async fn call(
    client: &RunningService<RoleClient, Progress>,
    name: &'static str,
    arguments: Value,
) -> Result<String, String> {
    let result = tool(client, name, arguments).await?;
    let text = result.content.first().and_then(|content| content.as_text());
    match text {
        Some(text) if result.is_error != Some(true) => Ok(text.text.clone()),
        _ => Err(format!("{name}: {result:?}")),
    }
}

async fn tool(
    client: &RunningService<RoleClient, Progress>,
    name: &'static str,
    arguments: Value,
) -> Result<CallToolResult, String> {
    let arguments: JsonObject = serde_json::from_value(arguments).map_err(step(name))?;
    let request = CallToolRequestParams::new(name).with_arguments(arguments);
    client.call_tool(request).await.map_err(step(name))
}

/// Says which step an error is of.
pub(crate) fn step<E: Display>(name: &str) -> impl Fn(E) -> String {
    move |error| format!("{name}: {error}")
}

fn same<T: PartialEq + std::fmt::Debug>(step: &str, seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{step}: {seen:?}, not {wanted:?}")) }
}
