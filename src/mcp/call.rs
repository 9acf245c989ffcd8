//! One checked client message: headers and body read once, and found to say the same.

use super::headers::{Claims, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, decode_name};
use super::method::is_removed;
use super::{Class, Era, Revision, RoutingKey, Violation};
use crate::jsonrpc::{self, Envelope, Id};

/// What a message is, with the method's class where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request, which gets an answer.
    Request(Class),
    /// A notification, which gets 202.
    Notification,
    /// A legacy client's answer to a request of the server.
    Response,
}

/// A client message whose headers and body agree.
#[derive(Debug)]
pub struct Call<'b> {
    /// What the body says.
    pub envelope: Envelope<'b>,
    /// The era both header and body speak.
    pub era: Era,
    /// What kind of message it is.
    pub kind: Kind,
    /// The revision the headers name, where they name one.
    pub revision: Option<Revision>,
}

impl<'b> Call<'b> {
    /// Checks the claims of the headers against the envelope, by the ladder of the 2026-07-28
    /// transport (steps 7 to 9 of SPEC.md section 3.1).
    pub fn read(claims: Claims<'_>, envelope: Envelope<'b>) -> Result<Self, Violation> {
        let era = era(claims, &envelope)?;
        let revision = claims.version.and_then(Revision::parse);
        // An unknown revision is refused here, with the list of those the gateway knows. A known
        // one goes to the server, who alone can say whether it serves it.
        if claims.version.is_some() && revision.is_none() {
            return Err(Violation::UnknownRevision);
        }
        agree_on_method(claims, &envelope, era)?;
        agree_on_name(claims, &envelope, era)?;
        let kind = kind(&envelope, era)?;
        Ok(Self { envelope, era, kind, revision })
    }

    /// The method's name; empty for a response.
    pub fn method(&self) -> &str {
        self.envelope.method().map_or("", |method| method.as_str())
    }

    /// The id to answer with.
    pub fn id(&self) -> Option<Id<'b>> {
        self.envelope.reply_id()
    }

    /// The string the message is routed by, if its method has one.
    pub fn target(&self) -> Option<&str> {
        routing_value(&self.envelope)
    }

    /// The tool's name, for `tools/call` only.
    pub fn tool(&self) -> Option<&str> {
        match self.kind {
            Kind::Request(Class::ToolCall) => self.target(),
            _ => None,
        }
    }
}

/// The era of a message: the `_meta` claim makes it modern, and the header must say so too.
fn era(claims: Claims<'_>, envelope: &Envelope<'_>) -> Result<Era, Violation> {
    let header = claims.version;
    let header_is_modern =
        header.and_then(Revision::parse).is_some_and(|revision| revision.era() == Era::Modern);
    match &envelope.params.meta.protocol_version {
        Some(claim) => match header {
            None => Err(Violation::HeaderMissing(MCP_PROTOCOL_VERSION)),
            Some(value) if value != claim.as_str() => {
                Err(Violation::HeaderMismatch(MCP_PROTOCOL_VERSION))
            }
            Some(_) => {
                // A claim of a legacy revision is still a modern message: only there claims exist.
                if matches!(envelope.kind, jsonrpc::Kind::Request { .. })
                    && envelope.params.meta.client_capabilities != jsonrpc::Claim::Object
                {
                    return Err(Violation::ClaimMissing("clientCapabilities"));
                }
                Ok(Era::Modern)
            }
        },
        None if header_is_modern => match envelope.kind {
            jsonrpc::Kind::Request { .. } => Err(Violation::ClaimMissing("protocolVersion")),
            // The specification leaves headers of modern notifications open; the server decides.
            jsonrpc::Kind::Notification { .. } => Ok(Era::Modern),
            jsonrpc::Kind::Response { .. } => Err(Violation::ResponseInModern),
        },
        None => Ok(Era::Legacy),
    }
}

/// `Mcp-Method` must be there in a modern request, and must never lie in any.
fn agree_on_method(claims: Claims<'_>, envelope: &Envelope<'_>, era: Era) -> Result<(), Violation> {
    let method = envelope.method().map(|method| method.as_str());
    match claims.method {
        Some(value) if Some(value) != method => Err(Violation::HeaderMismatch(MCP_METHOD)),
        Some(_) => Ok(()),
        None if era == Era::Modern && matches!(envelope.kind, jsonrpc::Kind::Request { .. }) => {
            Err(Violation::HeaderMissing(MCP_METHOD))
        }
        None => Ok(()),
    }
}

/// `Mcp-Name` must be there where the method is routed by a name, and must never lie.
fn agree_on_name(claims: Claims<'_>, envelope: &Envelope<'_>, era: Era) -> Result<(), Violation> {
    let Some(method) = envelope.method() else { return Ok(()) };
    let is_request = matches!(envelope.kind, jsonrpc::Kind::Request { .. });
    let mirrored = is_request && RoutingKey::must_be_mirrored(method.as_str());
    let value = routing_value(envelope);
    if mirrored && value.is_none() && era == Era::Modern {
        return Err(Violation::RoutingKeyMissing("params"));
    }
    match claims.name {
        // What a notification without such a name says there is nobody's business.
        Some(_) if value.is_none() && !is_request => Ok(()),
        Some(header) => {
            let Some(header) = decode_name(header) else {
                return Err(Violation::HeaderEncoding);
            };
            match value {
                Some(value) if value != header => Err(Violation::HeaderMismatch(MCP_NAME)),
                _ => Ok(()),
            }
        }
        None if mirrored && era == Era::Modern => Err(Violation::HeaderMissing(MCP_NAME)),
        None => Ok(()),
    }
}

fn kind(envelope: &Envelope<'_>, era: Era) -> Result<Kind, Violation> {
    match &envelope.kind {
        jsonrpc::Kind::Request { method, .. } if is_removed(method.as_str(), era) => {
            Err(Violation::MethodRemoved)
        }
        jsonrpc::Kind::Request { method, .. } => Ok(Kind::Request(Class::of(method.as_str()))),
        jsonrpc::Kind::Notification { .. } => Ok(Kind::Notification),
        jsonrpc::Kind::Response { .. } if era == Era::Modern => Err(Violation::ResponseInModern),
        jsonrpc::Kind::Response { .. } => Ok(Kind::Response),
    }
}

fn routing_value<'e>(envelope: &'e Envelope<'_>) -> Option<&'e str> {
    let params = &envelope.params;
    let text = match RoutingKey::of(envelope.method()?.as_str()) {
        RoutingKey::Name => params.name.as_ref(),
        RoutingKey::Uri => params.uri.as_ref(),
        RoutingKey::TaskId => params.task_id.as_ref(),
        RoutingKey::Reference => {
            let to = params.reference.as_ref()?;
            match to.kind.as_ref()?.as_str() {
                "ref/prompt" => to.name.as_ref(),
                "ref/resource" => to.uri.as_ref(),
                _ => None,
            }
        }
        RoutingKey::None => None,
    };
    text.map(|text| text.as_str())
}

#[cfg(test)]
mod tests {
    use super::{Call, Kind};
    use crate::jsonrpc::peek;
    use crate::mcp::{Claims, Class, Era, Violation};

    const CLAIM: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    fn check(
        version: Option<&str>,
        method: Option<&str>,
        name: Option<&str>,
        body: &str,
        expected: Result<(Era, Kind), Violation>,
    ) {
        let body = body.replace("CLAIM", CLAIM);
        let envelope = peek(body.as_bytes()).expect("a body the peek accepts");
        let call = Call::read(Claims { version, method, name }, envelope);
        assert_eq!(call.map(|call| (call.era, call.kind)), expected, "{body}");
    }

    #[test]
    fn era_is_where_header_and_body_agree() {
        let call =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",CLAIM}}"#;
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
        let modern = Some("2026-07-28");
        let tool_call = Kind::Request(Class::ToolCall);
        let (method, name) = (Some("tools/call"), Some("echo"));
        check(modern, method, name, call, Ok((Era::Modern, tool_call)));
        check(None, None, None, bare, Ok((Era::Legacy, tool_call)));
        check(Some("2025-11-25"), None, None, bare, Ok((Era::Legacy, tool_call)));
        check(None, method, name, call, Err(Violation::HeaderMissing("mcp-protocol-version")));
        check(
            Some("2025-11-25"),
            method,
            name,
            call,
            Err(Violation::HeaderMismatch("mcp-protocol-version")),
        );
        check(modern, method, name, bare, Err(Violation::ClaimMissing("protocolVersion")));
        check(Some("2027-01-01"), None, None, bare, Err(Violation::UnknownRevision));
    }

    #[test]
    fn mirrored_headers_never_lie() {
        let call =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",CLAIM}}"#;
        let modern = Some("2026-07-28");
        let tool_call = Kind::Request(Class::ToolCall);
        let (method, name) = (Some("tools/call"), Some("echo"));
        check(modern, method, Some("=?base64?ZWNobw==?="), call, Ok((Era::Modern, tool_call)));
        check(modern, None, name, call, Err(Violation::HeaderMissing("mcp-method")));
        check(modern, method, None, call, Err(Violation::HeaderMissing("mcp-name")));
        check(modern, Some("TOOLS/CALL"), name, call, Err(Violation::HeaderMismatch("mcp-method")));
        check(modern, method, Some("Echo"), call, Err(Violation::HeaderMismatch("mcp-name")));
        check(modern, method, Some("=?base64?*?="), call, Err(Violation::HeaderEncoding));
        // A legacy request needs none of them, but a lie is a lie.
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
        check(None, Some("tools/list"), None, bare, Err(Violation::HeaderMismatch("mcp-method")));
        check(None, None, Some("other"), bare, Err(Violation::HeaderMismatch("mcp-name")));
    }

    #[test]
    fn a_name_in_the_header_is_compared_wherever_the_body_has_one() {
        let mismatch = Err(Violation::HeaderMismatch("mcp-name"));
        let told = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo"}}"#;
        check(None, None, Some("other"), told, mismatch);
        check(None, None, Some("echo"), told, Ok((Era::Legacy, Kind::Notification)));
        check(None, None, None, told, Ok((Era::Legacy, Kind::Notification)));
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
        check(None, None, Some("x"), progress, Ok((Era::Legacy, Kind::Notification)));
        // A completion is routed by what its type says.
        let completion = r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"a:b","name":"p"}}}"#;
        check(None, None, Some("p"), completion, mismatch);
        check(None, None, Some("a:b"), completion, Ok((Era::Legacy, Kind::Request(Class::Read))));
    }

    #[test]
    fn a_modern_message_is_complete_and_of_its_era() {
        let modern = Some("2026-07-28");
        let without_capabilities = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let list = Some("tools/list");
        let missing = Err(Violation::ClaimMissing("clientCapabilities"));
        check(modern, list, None, without_capabilities, missing);
        let removed = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{CLAIM}}"#;
        check(modern, Some("ping"), None, removed, Err(Violation::MethodRemoved));
        let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        check(modern, None, None, response, Err(Violation::ResponseInModern));
        check(None, None, None, response, Ok((Era::Legacy, Kind::Response)));
        let nameless = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{CLAIM}}"#;
        let missing = Err(Violation::RoutingKeyMissing("params"));
        check(modern, Some("tools/call"), Some("x"), nameless, missing);
    }
}
