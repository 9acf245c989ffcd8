//! Requests as the two eras write them, in pieces that a test can bend.

use serde_json::{Value, json};

/// A request, before it becomes bytes or HTTP/2 frames.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) verb: &'static str,
    pub(crate) path: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The claims of every modern request.
pub(crate) fn claims() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

impl Message {
    /// A POST with the fields that both eras have.
    pub(crate) fn post(body: impl Into<Vec<u8>>) -> Self {
        let fields = [
            ("host", "localhost"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { verb: "POST", path: "/mcp".to_owned(), fields: fields.to_vec(), body: body.into() }
    }

    /// GET of a legacy stream.
    pub(crate) fn stream(session: &str) -> Self {
        let mut stream = Self::post("").field("accept", "text/event-stream");
        stream.verb = "GET";
        stream.without("content-type").field("mcp-session-id", session)
    }

    /// DELETE of a legacy session.
    pub(crate) fn end(session: &str) -> Self {
        Self { verb: "DELETE", ..Self::stream(session) }
    }

    /// A legacy request.
    pub(crate) fn legacy(id: impl Into<Value>, method: &str, params: &Value) -> Self {
        let id = id.into();
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        Self::post(body.to_string())
    }

    pub(crate) fn initialize() -> Self {
        let client = json!({ "name": "suite", "version": "1" });
        let params =
            json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
        Self::legacy(1, "initialize", &params)
    }

    /// A legacy call of a tool within a session.
    pub(crate) fn legacy_call(id: i64, tool: &str, session: &str) -> Self {
        let params = json!({ "name": tool, "arguments": {} });
        Self::legacy(id, "tools/call", &params).field("mcp-session-id", session)
    }

    /// A modern request, whose headers agree with its body.
    pub(crate) fn modern(id: impl Into<Value>, method: &str, params: Value) -> Self {
        let (id, mut params) = (id.into(), params);
        params["_meta"] = claims();
        let name = ["name", "uri", "taskId"].iter().find_map(|key| params[*key].as_str());
        let name = name.map(str::to_owned);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let message = Self::post(body.to_string())
            .field("mcp-protocol-version", "2026-07-28")
            .field("mcp-method", method);
        match name {
            Some(name) => message.field("mcp-name", &name),
            None => message,
        }
    }

    /// A modern call of a tool.
    pub(crate) fn call(id: i64, tool: &str) -> Self {
        Self::modern(id, "tools/call", json!({ "name": tool, "arguments": {} }))
    }

    /// Sets a field, in place of one of its name.
    pub(crate) fn field(self, name: &str, value: &str) -> Self {
        self.without(name).and(name, value)
    }

    /// Adds a field, beside one of its name.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(found, _)| found != name);
        self
    }

    pub(crate) fn at(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub(crate) fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The head in HTTP/1.1 with the body's length, where there is a body.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.verb, self.path);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = self.fields.iter().any(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name == "content-length" || name == "transfer-encoding"
        });
        if self.verb == "POST" && !framed {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The request in HTTP/1.1.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }

    /// The request in HTTP/1.1 with its body in chunks.
    pub(crate) fn chunked(&self, chunk: usize) -> Vec<u8> {
        let mut bytes = self.clone().field("transfer-encoding", "chunked").head();
        for part in self.body.chunks(chunk) {
            bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}
