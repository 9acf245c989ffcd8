//! What a server gets instead of the client's credentials: `credentials`, and `identity_headers`.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::cloud_identity::{AzureIdentity, AzureIdentityText, GcpMetadata, GcpMetadataText};
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::secret::Secret;
use super::shape::{At, Field, Scalar, shape};
use super::url::{Scheme, Url};

/// Longer values are refused by servers.
const VALUE_BYTES_MAX: usize = 8 * 1024;
/// What a caller's token is, unless it is said otherwise (RFC 8693 section 3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What a server gets instead of the client's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The field of the head it is sent in.
    pub header: HeaderName,
    /// What stands before a token in it; none where the token stands alone.
    pub scheme: Option<String>,
    /// Where it comes from.
    pub source: CredentialSource,
}

/// Where a server's credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// The configuration: the whole value of the field.
    Value(Secret),
    /// A file that is read again when it changes.
    TokenFile(PathBuf),
    /// An authorization server that knows the gateway (RFC 6749 section 4.4).
    OauthClient(TokenRequest),
    /// An authorization server that gives another token for that of the caller (RFC 8693).
    TokenExchange(Box<TokenExchange>),
    /// Azure, which knows the machine.
    Azure(AzureIdentity),
    /// Google's cloud, which knows the machine.
    Gcp(GcpMetadata),
}

/// What an authorization server is asked for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Where tokens are given.
    pub token_url: String,
    /// Who the gateway is there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: Secret,
    /// How it is shown.
    pub auth: ClientAuth,
    /// What the token is to allow.
    pub scopes: Vec<String>,
    /// Who the token is for, by name.
    pub audience: Option<String>,
    /// Who the token is for, by URL (RFC 8707).
    pub resource: Option<String>,
}

/// How the gateway shows its secret to an authorization server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// In the head.
    #[default]
    Basic,
    /// In the form.
    Post,
}

/// What is asked of an authorization server for a caller's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenExchange {
    /// What is asked for, and by whom.
    pub request: TokenRequest,
    /// What the caller's token is.
    pub subject_token_type: String,
    /// What the other token shall be; the authorization server decides by default.
    pub requested_token_type: Option<String>,
    /// A file with the token of who acts for the caller.
    pub actor_token_file: Option<PathBuf>,
    /// What is done for callers that have no token.
    pub otherwise: WithoutToken,
}

/// What is done for callers that have no token to exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WithoutToken {
    /// They are refused.
    #[default]
    Refuse,
    /// The gateway calls in its own name.
    ClientCredentials,
}

/// Whether a server is told who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdentityHeaders {
    /// It is, by `X-Toolgate-Caller` and the like.
    On,
    /// It is not.
    #[default]
    Off,
}

shape! {
    /// What the server gets instead of the client's credentials: by one of value, token_file, oauth_client, token_exchange, azure_managed_identity and gcp_metadata.
    CredentialsText {
        /// The header field it is sent in; Authorization by default.
        optional header: FieldName,
        /// What stands before the token: by default Bearer in Authorization and none elsewhere; none means nothing.
        optional scheme: AuthScheme,
        /// The whole value of the field, or file:PATH.
        optional value: Secret,
        /// A file with a token, read again when it changes.
        optional token_file: PathBuf,
        /// A token of an authorization server for the gateway itself (RFC 6749 section 4.4).
        optional oauth_client: OauthClientText,
        /// A token of an authorization server in exchange for the caller's (RFC 8693).
        optional token_exchange: TokenExchangeText,
        /// A token of Azure for the machine or app that the gateway runs on.
        optional azure_managed_identity: AzureIdentityText,
        /// A token of Google's cloud for the machine that the gateway runs on.
        optional gcp_metadata: GcpMetadataText,
    }
}

shape! {
    /// A token of an authorization server for the gateway itself (RFC 6749 section 4.4).
    OauthClientText {
        /// Where tokens are given: https, or http on this machine.
        required token_url: Url,
        /// Who the gateway is there.
        required client_id: String,
        /// What proves it, or file:PATH.
        required client_secret: Secret,
        /// How it is shown: basic (in the head) or post (in the form).
        optional auth: ClientAuth,
        /// What the token is to allow.
        optional scopes: Vec<Field<String>>,
        /// Who the token is for, by name.
        optional audience: String,
        /// Who the token is for, by URL (RFC 8707).
        optional resource: Url,
    }
}

shape! {
    /// A token of an authorization server in exchange for the caller's (RFC 8693).
    TokenExchangeText {
        /// Where tokens are given: https, or http on this machine.
        required token_url: Url,
        /// Who the gateway is there.
        required client_id: String,
        /// What proves it, or file:PATH.
        required client_secret: Secret,
        /// How it is shown: basic (in the head) or post (in the form).
        optional auth: ClientAuth,
        /// What the token is to allow.
        optional scopes: Vec<Field<String>>,
        /// Who the token is for, by name.
        optional audience: String,
        /// Who the token is for, by URL (RFC 8707).
        optional resource: Url,
        /// What the caller's token is; an access token by default.
        optional subject_token_type: String,
        /// What the new token shall be; the authorization server decides by default.
        optional requested_token_type: String,
        /// A file with the token of who acts for the caller, read for every exchange.
        optional actor_token_file: PathBuf,
        /// What is done for callers without a token, such as those with an API key: refuse, or client_credentials (the gateway calls in its own name).
        optional otherwise: WithoutToken,
    }
}

/// The name of a header field that a credential may be sent in.
#[derive(Debug, Clone)]
pub(super) struct FieldName(HeaderName);

impl Scalar for FieldName {
    const NAME: &'static str = "the name of a header field";

    fn parse(text: &str) -> Result<Self, Fault> {
        let Ok(name) = HeaderName::try_from(text) else {
            return Err(Fault::new(
                "this is not the name of a header field",
                "write it like Authorization or X-Api-Key",
            ));
        };
        if is_not_for_credentials(name.as_str()) {
            let hint = "use Authorization or a field of your own, such as X-Api-Key";
            return Err(Fault::new("the gateway writes this header field itself", hint));
        }
        Ok(Self(name))
    }
}

/// What frames a request, belongs to the protocol, or says who calls and how.
fn is_not_for_credentials(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
            | "host"
            | "accept"
            | "accept-encoding"
            | "last-event-id"
            | "origin"
            | "forwarded"
            | "x-request-id"
            | "traceparent"
            | "tracestate"
            | "user-agent"
    ) || ["content-", "mcp-", "x-toolgate-", "x-forwarded-", "sec-", "access-control-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// What stands before a token.
#[derive(Debug, Clone)]
pub(super) struct AuthScheme(Option<String>);

impl Scalar for AuthScheme {
    const NAME: &'static str = "a scheme";

    fn parse(text: &str) -> Result<Self, Fault> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match text {
            "none" => Ok(Self(None)),
            _ if !text.is_empty() && text.bytes().all(is_token) => Ok(Self(Some(text.to_owned()))),
            _ => Err(Fault::new("this is not a scheme", "write one word, such as Bearer, or none")),
        }
    }
}

const CLIENT_AUTHS: &[(&str, ClientAuth)] =
    &[("basic", ClientAuth::Basic), ("post", ClientAuth::Post)];

impl Scalar for ClientAuth {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, CLIENT_AUTHS)
    }

    fn schema() -> Value {
        choice_schema(CLIENT_AUTHS)
    }
}

const WITHOUT_TOKEN: &[(&str, WithoutToken)] =
    &[("refuse", WithoutToken::Refuse), ("client_credentials", WithoutToken::ClientCredentials)];

impl Scalar for WithoutToken {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, WITHOUT_TOKEN)
    }

    fn schema() -> Value {
        choice_schema(WITHOUT_TOKEN)
    }
}

const IDENTITY_HEADERS: &[(&str, IdentityHeaders)] =
    &[("on", IdentityHeaders::On), ("off", IdentityHeaders::Off)];

impl Scalar for IdentityHeaders {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, IDENTITY_HEADERS)
    }

    fn schema() -> Value {
        choice_schema(IDENTITY_HEADERS)
    }
}

impl CredentialsText {
    /// The checked credentials; `head` is where the key stands.
    pub(super) fn check(self, head: Place, reading: &mut Reading<'_>) -> Option<Credentials> {
        let Self {
            header,
            scheme,
            value,
            token_file,
            oauth_client,
            token_exchange,
            azure_managed_identity,
            gcp_metadata,
        } = self;
        let header = header.value().map_or(http::header::AUTHORIZATION, |name| name.0);
        let heads = [
            head_of(&value),
            head_of(&token_file),
            head_of(&oauth_client),
            head_of(&token_exchange),
            head_of(&azure_managed_identity),
            head_of(&gcp_metadata),
        ];
        let mut given = heads.into_iter().flatten();
        match (given.next(), given.next()) {
            (None, _) => {
                let hint = "write `value:`, `token_file:`, `oauth_client:`, `token_exchange:`, `azure_managed_identity:` or `gcp_metadata:`";
                reading.problem(head, "nothing says where the credential comes from", hint);
                return None;
            }
            (Some(_), Some(Some(second))) => {
                let hint = "a server gets one credential; remove the others";
                reading.problem(second, "the credential comes from two places", hint);
                return None;
            }
            _ => {}
        }
        if let (Field::Given(_), Some(scheme)) = (&value, scheme.as_given()) {
            let hint = "write it into `value`, and remove the scheme";
            reading.problem(scheme.head, "a value is sent as it is, without a scheme", hint);
        }
        let default = (header == http::header::AUTHORIZATION).then(|| "Bearer".to_owned());
        let scheme = scheme.value().map_or(default, |scheme| scheme.0);
        let source = None
            .or_else(|| value.given().and_then(|value| check_value(value, reading)))
            .or_else(|| token_file.given().map(|path| existing(path, reading)))
            .or_else(|| oauth_client.value()?.check(reading).map(CredentialSource::OauthClient))
            .or_else(|| {
                let exchange = token_exchange.value()?.check(reading)?;
                Some(CredentialSource::TokenExchange(Box::new(exchange)))
            })
            .or_else(|| {
                azure_managed_identity.given()?.value.check(reading).map(CredentialSource::Azure)
            })
            .or_else(|| {
                let At { head, value, .. } = gcp_metadata.given()?;
                value.check(head, reading).map(CredentialSource::Gcp)
            })?;
        Some(Credentials { header, scheme, source })
    }
}

/// Whether a key is written, and where if it was understood.
fn head_of<T>(field: &Field<T>) -> Option<Option<Place>> {
    match field {
        Field::Absent => None,
        Field::Faulty => Some(None),
        Field::Given(at) => Some(Some(at.head)),
    }
}

fn existing(path: At<PathBuf>, reading: &mut Reading<'_>) -> CredentialSource {
    CredentialSource::TokenFile(reading.existing_file(path.place, &path.value))
}

/// The message must not show the value.
fn check_value(value: At<Secret>, reading: &mut Reading<'_>) -> Option<CredentialSource> {
    let At { place, head: _, value } = value;
    let text = value.expose();
    if text.trim().is_empty() {
        reading.problem(place, "this value is empty", "write the whole value of the header field");
        return None;
    }
    if HeaderValue::from_str(text).is_err() || text.len() > VALUE_BYTES_MAX || text.trim() != text {
        let hint = format!(
            "use visible characters of ASCII without spaces around them, at most {VALUE_BYTES_MAX}"
        );
        reading.problem(place, "this cannot be the value of a header field", hint);
        return None;
    }
    Some(CredentialSource::Value(value))
}

impl OauthClientText {
    fn check(self, reading: &mut Reading<'_>) -> Option<TokenRequest> {
        let Self { token_url, client_id, client_secret, auth, scopes, audience, resource } = self;
        let token_url = token_url.given().and_then(|url| secure(&url, reading));
        let scopes = check_scopes(scopes, reading);
        Some(TokenRequest {
            token_url: token_url?,
            client_id: client_id.value()?,
            client_secret: client_secret.value()?,
            auth: auth.or(ClientAuth::default()),
            scopes,
            audience: audience.value(),
            resource: resource.value().map(|url| url.with_path(&url.path_and_query)),
        })
    }
}

impl TokenExchangeText {
    fn check(self, reading: &mut Reading<'_>) -> Option<TokenExchange> {
        let Self {
            token_url,
            client_id,
            client_secret,
            auth,
            scopes,
            audience,
            resource,
            subject_token_type,
            requested_token_type,
            actor_token_file,
            otherwise,
        } = self;
        let request = OauthClientText {
            token_url,
            client_id,
            client_secret,
            auth,
            scopes,
            audience,
            resource,
        };
        let actor = actor_token_file.given();
        let actor_token_file = actor.map(|path| reading.existing_file(path.place, &path.value));
        Some(TokenExchange {
            request: request.check(reading)?,
            subject_token_type: subject_token_type.or(ACCESS_TOKEN.to_owned()),
            requested_token_type: requested_token_type.value(),
            actor_token_file,
            otherwise: otherwise.or(WithoutToken::default()),
        })
    }
}

pub(super) fn check_scopes(
    scopes: Field<Vec<Field<String>>>,
    reading: &mut Reading<'_>,
) -> Vec<String> {
    let mut checked = Vec::new();
    for scope in scopes.or(Vec::new()).into_iter().filter_map(Field::given) {
        match scope.value.contains(char::is_whitespace) {
            true => {
                reading.problem(scope.place, "a scope has no spaces", "write one per list item");
            }
            false => checked.push(scope.value),
        }
    }
    checked
}

/// Secrets go there: only TLS, or this machine.
fn secure(url: &At<Url>, reading: &mut Reading<'_>) -> Option<String> {
    let At { place, head: _, value } = url;
    if value.scheme == Scheme::Http && !is_loopback(&value.host) {
        reading.problem(*place, "secrets are not sent over plain http", "use https");
        return None;
    }
    Some(value.with_path(&value.path_and_query))
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
