//! The closed list of reasons for which the gateway says no; metrics, logs and answers share it.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why the gateway refused a request, or failed to carry it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the request's walk.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Whether it is a server that cannot be reached, or does not answer, that the request failed for.
            pub fn is_of_endpoint(self) -> bool {
                matches!(
                    self,
                    Self::EndpointNone
                        | Self::EndpointBusy
                        | Self::EndpointUnreachable
                        | Self::EndpointTimeout
                        | Self::EndpointBroken
                )
            }

            /// Whether it is the policy that says no.
            pub fn is_of_policy(self) -> bool {
                matches!(
                    self,
                    Self::PolicyHidden
                        | Self::PolicyForbidden
                        | Self::ScopeMissing
                        | Self::CombinationForbidden
                        | Self::CombinationFull
                        | Self::CombinationAway
                )
            }

            /// The reason's name in metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// The process holds as many connections as it may.
    ConnectionsFull => "connections_full",
    /// The head of a request broke HTTP, or is ambiguous between two readers.
    HeadMalformed => "head_malformed",
    /// The head of a request is larger than the listener allows.
    HeadTooLarge => "head_too_large",
    /// The head of a request did not arrive in time.
    HeadTimeout => "head_timeout",
    /// Too many requests came from the client's address.
    AddressLimited => "address_limited",
    /// The record of calls takes no more, and no call may run without one.
    AuditFull => "audit_full",
    /// What the connection has shown in its handshake would not be accepted now.
    CertificateRefused => "certificate_refused",
    /// `Host` names nobody served here.
    HostRefused => "host_refused",
    /// `Origin` is not allowed.
    OriginRefused => "origin_refused",
    /// No route has this path.
    RouteUnknown => "route_unknown",
    /// The route does not serve this HTTP method.
    VerbRefused => "verb_refused",
    /// No proof of identity, or a bad one.
    Unauthenticated => "unauthenticated",
    /// Who could say what a token is worth does not answer.
    IdentityUnavailable => "identity_unavailable",
    /// A rate limit has no room for the call.
    RateLimited => "rate_limited",
    /// As many calls run at once as a limit allows.
    InFlightLimited => "in_flight_limited",
    /// As many streams are open as a limit allows.
    StreamsLimited => "streams_limited",
    /// A limit counts as many keys as it may, and this one is new.
    LimitFull => "limit_full",
    /// `Accept` leaves no answer to give.
    NotAcceptable => "not_acceptable",
    /// `Content-Type` is not JSON.
    MediaType => "media_type",
    /// The body is larger than the route allows.
    BodyTooLarge => "body_too_large",
    /// The body did not arrive in time.
    BodyTimeout => "body_timeout",
    /// The body ended early or broke its framing.
    BodyBroken => "body_broken",
    /// The body is not one strict JSON-RPC message.
    MessageMalformed => "message_malformed",
    /// Headers and body disagree, or break a rule of their revision.
    MessageViolation => "message_violation",
    /// The method does not exist in the request's era.
    MethodRemoved => "method_removed",
    /// The method is no server's in particular, of several.
    MethodUnknown => "method_unknown",
    /// What a client sends back, to go on with it, was not given to it, or too long ago.
    HandleUnknown => "handle_unknown",
    /// Of several servers, one that could have what is named was never listed yet.
    CatalogUnknown => "catalog_unknown",
    /// A legacy request without the session it needs.
    SessionMissing => "session_missing",
    /// A session id that opens nothing here.
    SessionUnknown => "session_unknown",
    /// The version header is not the one the session negotiated.
    SessionRevision => "session_revision",
    /// The policy hides the tool, prompt or resource from this caller.
    PolicyHidden => "policy_hidden",
    /// The policy does not let this caller use the method.
    PolicyForbidden => "policy_forbidden",
    /// The caller lacks a scope that the call needs.
    ScopeMissing => "scope_missing",
    /// The server has changed the tool's definition, which waits for approval.
    DefinitionPending => "definition_pending",
    /// What was called before rules this call out.
    CombinationForbidden => "combination_forbidden",
    /// One more use of a labelled tool cannot be remembered.
    CombinationFull => "combination_full",
    /// Nobody can say what was called before at other replicas.
    CombinationAway => "combination_away",
    /// The process holds as many streams as it may.
    StreamsFull => "streams_full",
    /// No endpoint of the server can take the call.
    EndpointNone => "endpoint_none",
    /// The endpoint carries as many calls as it may, and no more may wait.
    EndpointBusy => "endpoint_busy",
    /// What the server wants to see cannot be had now.
    CredentialsUnavailable => "credentials_unavailable",
    /// The caller has no token that could be exchanged for one of the server.
    ExchangeRefused => "exchange_refused",
    /// No endpoint could be connected to.
    EndpointUnreachable => "endpoint_unreachable",
    /// The endpoint did not answer in time.
    EndpointTimeout => "endpoint_timeout",
    /// The endpoint's answer broke HTTP or ended early.
    EndpointBroken => "endpoint_broken",
    /// The endpoint's list, of which the caller may not see all, is larger than may be held.
    ListTooLarge => "list_too_large",
    /// A fault of the gateway itself.
    Internal => "internal",
}
