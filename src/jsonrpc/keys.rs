//! The keys that are read, level by level, and which methods are routed by which of them.

use super::scan::Scanner;

/// The levels whose keys are read.
#[derive(Clone, Copy)]
pub(super) enum Level {
    Message,
    Params,
    Meta,
    Reference,
}

/// Every key that is read, or whose doubling would make parsers disagree on what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Arguments,
    Meta,
    Uri,
    TaskId,
    Ref,
    ProtocolVersion,
    RequestId,
    Cursor,
    InputResponses,
    RequestState,
    ProgressToken,
    ClaimedVersion,
    ClientCapabilities,
    ClientInfo,
    LogLevel,
    RefType,
    RefName,
    RefUri,
}

/// Lists the keys of each level once, for the fast way to find one and for the careful one.
macro_rules! levels {
    ($($level:ident { $($name:literal $key:ident,)* })*) => {
        impl Level {
            /// Passes a key that is written exactly as one of these, and says which it is.
            ///
            /// Comparing it with its quotes, a few words at once, saves looking for the end of it.
            #[inline(always)]
            pub(super) fn take_key(self, scanner: &mut Scanner<'_>) -> Option<Key> {
                match self {
                    $(Self::$level => {
                        $(if scanner.take(concat!('"', $name, '"').as_bytes()) {
                            return Some(Key::$key);
                        })*
                    })*
                }
                None
            }

            pub(super) fn keys(self) -> &'static [(&'static str, Key)] {
                match self {
                    $(Self::$level => &[$(($name, Key::$key)),*],)*
                }
            }
        }
    };
}

// The keys that are met most come first.
levels! {
    Message {
        "jsonrpc" Jsonrpc,
        "id" Id,
        "method" Method,
        "params" Params,
        "result" Result,
        "error" Error,
    }
    Params {
        "name" Name,
        "arguments" Arguments,
        "_meta" Meta,
        "uri" Uri,
        "taskId" TaskId,
        "ref" Ref,
        "protocolVersion" ProtocolVersion,
        "requestId" RequestId,
        "cursor" Cursor,
        "inputResponses" InputResponses,
        "requestState" RequestState,
    }
    Meta {
        "progressToken" ProgressToken,
        "io.modelcontextprotocol/protocolVersion" ClaimedVersion,
        "io.modelcontextprotocol/clientCapabilities" ClientCapabilities,
        "io.modelcontextprotocol/clientInfo" ClientInfo,
        "io.modelcontextprotocol/logLevel" LogLevel,
    }
    Reference {
        "type" RefType,
        "name" RefName,
        "uri" RefUri,
    }
}

impl Level {
    /// How many containers stand around a value at this level.
    #[inline(always)]
    pub(super) fn depth(self) -> usize {
        match self {
            Self::Message => 1,
            Self::Params => 2,
            Self::Meta | Self::Reference => 3,
        }
    }
}

impl Key {
    /// The bit of this key in a set of keys.
    #[inline(always)]
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether messages are routed by this key, so that its type matters to some methods only.
    pub(super) fn is_routing(self) -> bool {
        !self.routed_methods().is_empty()
    }

    /// The methods that the gateway routes by this key. To all others it is the server's business.
    pub(super) fn routed_methods(self) -> &'static [&'static str] {
        match self {
            Self::Name => &["tools/call", "prompts/get"],
            Self::Uri => &["resources/read", "resources/subscribe", "resources/unsubscribe"],
            Self::TaskId => &["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"],
            Self::Ref | Self::RefType | Self::RefName | Self::RefUri => &["completion/complete"],
            Self::ProtocolVersion => &["initialize"],
            Self::RequestId => &["notifications/cancelled"],
            Self::RequestState => &["tools/call", "prompts/get", "resources/read"],
            _ => &[],
        }
    }
}
