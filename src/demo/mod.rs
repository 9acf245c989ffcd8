//! A small fleet of real MCP servers inside the process, for the first minute.

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{CallToolRequestParams, CallToolResult, ContentBlock, ErrorData};
use rmcp::service::ServiceError;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

mod everything;
mod first_minute;
mod notes;

pub use first_minute::Demo;

use everything::Everything;
use notes::Notes;

/// How many replicas the server `everything` has.
const REPLICAS: usize = 3;

/// The fleet: three replicas of `everything` and one `notes`, each on a loopback port of its own.
#[derive(Debug)]
pub struct Fleet {
    everything: Vec<TcpListener>,
    notes: TcpListener,
    endpoints: Vec<(&'static str, Vec<SocketAddr>)>,
}

impl Fleet {
    /// Takes four free loopback ports; connections wait until [`Fleet::serve`] runs.
    pub fn bind() -> io::Result<Self> {
        let everything: Vec<TcpListener> =
            (0..REPLICAS).map(|_| loopback()).collect::<io::Result<_>>()?;
        let notes = loopback()?;
        let addresses =
            everything.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let endpoints = vec![("everything", addresses), ("notes", vec![notes.local_addr()?])];
        Ok(Self { everything, notes, endpoints })
    }

    /// The servers by name, with the address of each replica; any path answers MCP.
    #[must_use]
    pub fn endpoints(&self) -> &[(&'static str, Vec<SocketAddr>)] {
        &self.endpoints
    }

    /// Answers until `shutdown` turns true or its sender is gone, then drops every connection.
    pub async fn serve(self, shutdown: watch::Receiver<bool>) {
        let mut replicas = JoinSet::new();
        for (number, listener) in (1..).zip(self.everything) {
            let server = Everything::new(number, REPLICAS);
            replicas.spawn(answer(listener, server, shutdown.clone()));
        }
        replicas.spawn(answer(self.notes, Notes::default(), shutdown));
        for ended in replicas.join_all().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a server of the demo could not start");
            }
        }
    }
}

fn loopback() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// One replica: rmcp speaks both eras on one address, hyper carries it.
async fn answer<S>(
    listener: TcpListener,
    server: S,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: ServerHandler + Clone,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let config = StreamableHttpServerConfig::default();
    let stop_sessions = config.cancellation_token.clone();
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(server.clone()), sessions, config);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors: the next attempt would fail at once, too.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Head and body of an answer leave as two writes; without this the second waits 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no delay");
        }
        let service = service.clone();
        let respond = service_fn(move |request| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.handle(request).await) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), respond));
    }
    stop_sessions.cancel();
    Ok(())
}

/// Turns JSON written in the code into rmcp's types, so that the servers read like the wire.
fn typed<T: DeserializeOwned>(json: Value) -> Result<T, ErrorData> {
    serde_json::from_value(json).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// The arguments of a call as the tool wants them; a call without any counts as an empty object.
fn arguments<T: DeserializeOwned>(request: CallToolRequestParams) -> Result<T, ErrorData> {
    serde_json::from_value(Value::Object(request.arguments.unwrap_or_default()))
        .map_err(|error| ErrorData::invalid_params(format!("{}: {error}", request.name), None))
}

fn unknown_tool(request: &CallToolRequestParams) -> ErrorData {
    ErrorData::invalid_params(format!("unknown tool {}", request.name), None)
}

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A tool's own failure, which is a result that the model reads and no protocol error.
fn failure(text: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

fn unsent(error: ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
