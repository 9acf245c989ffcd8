//! The rules of MCP that a client's request can break, as far as headers and envelope show it.

use crate::jsonrpc;

/// A broken MCP rule. What the client is told about it stands in `proxy/refusal.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A header that the revision requires is missing.
    HeaderMissing(&'static str),
    /// A header's value differs from the body's.
    HeaderMismatch(&'static str),
    /// `Mcp-Name` looks encoded but does not decode.
    HeaderEncoding,
    /// The modern version header without the `_meta` claim that goes with it.
    ClaimMissing(&'static str),
    /// A revision the gateway does not know.
    UnknownRevision,
    /// A method that the request's era does not have.
    MethodRemoved,
    /// A routed method without its routing key in `params`.
    RoutingKeyMissing(&'static str),
    /// A JSON-RPC response from a modern client, which has no server requests to answer.
    ResponseInModern,
}

impl Violation {
    /// The JSON-RPC code the specification gives this violation
    /// (2026-07-28 transport, "Server Validation"; schema `HEADER_MISMATCH`).
    pub fn code(self) -> i32 {
        match self {
            Self::HeaderMissing(_) | Self::HeaderMismatch(_) | Self::HeaderEncoding => {
                HEADER_MISMATCH
            }
            Self::ClaimMissing(_) | Self::RoutingKeyMissing(_) => jsonrpc::INVALID_PARAMS,
            Self::UnknownRevision => UNSUPPORTED_PROTOCOL_VERSION,
            Self::MethodRemoved => jsonrpc::METHOD_NOT_FOUND,
            Self::ResponseInModern => jsonrpc::INVALID_REQUEST,
        }
    }
}

/// `HeaderMismatch` of the 2026-07-28 schema.
pub const HEADER_MISMATCH: i32 = -32020;
/// `UnsupportedProtocolVersionError` of the 2026-07-28 schema.
const UNSUPPORTED_PROTOCOL_VERSION: i32 = -32022;
