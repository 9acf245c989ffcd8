//! How each of those who issue credentials is asked.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};

use super::reply::{Issued, error_of};
use crate::config::{
    AzureIdentity, ClientAuth, CredentialSource, Credentials, GcpMetadata, GcpToken, TokenExchange,
    TokenRequest,
};
use crate::outbound::{Fault, Guard, Outbound, Reply, Request, percent_encoded};

/// What an issuer answers is small.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// A larger file is no token.
const FILE_BYTES_MAX: u64 = 64 * 1024;
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const METADATA: HeaderName = HeaderName::from_static("metadata");
const METADATA_FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

/// Why there is no credential. Its text holds no secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    /// Nobody can be asked.
    #[error("the gateway cannot make requests of its own")]
    Nobody,
    /// There was no answer.
    #[error("{0}")]
    Unanswered(#[from] Fault),
    /// The answer was a no.
    #[error("status {status}, {error}")]
    Refused {
        /// The status.
        status: u16,
        /// OAuth's name for it.
        error: &'static str,
    },
    /// The answer holds no token that can be used.
    #[error("the answer holds no token that can be used")]
    Unusable,
    /// The caller's own token came back, which must never reach a server.
    #[error("the caller's own token came back")]
    Echo,
    /// Whoever answered is no metadata server.
    #[error("the answer does not come from a metadata server")]
    Impostor,
    /// The file of the token that goes with a request cannot be used.
    #[error("{0}")]
    File(&'static str),
}

impl Denied {
    /// Whether it is about the caller whose token was shown, and not about the gateway.
    pub(super) fn is_of_subject(&self) -> bool {
        let of_subject =
            ["invalid_request", "invalid_grant", "access_denied", "interaction_required"];
        matches!(self, Self::Echo)
            || matches!(self, Self::Refused { status: 400..500, error } if of_subject.contains(error))
    }
}

/// Asks for a credential; `subject_token` is what is exchanged where that is what is configured.
pub(super) async fn ask_for(
    outbound: &Outbound,
    settings: &Credentials,
    subject_token: Option<&str>,
) -> Result<Issued, Denied> {
    match &settings.source {
        CredentialSource::Value(_) | CredentialSource::TokenFile(_) => Err(Denied::Nobody),
        CredentialSource::OauthClient(request) => client_credentials(outbound, request).await,
        CredentialSource::TokenExchange(settings) => match subject_token {
            Some(token) => exchange(outbound, settings, token).await,
            None => client_credentials(outbound, &settings.request).await,
        },
        CredentialSource::Azure(identity) => azure(outbound, identity).await,
        CredentialSource::Gcp(metadata) => gcp(outbound, metadata).await,
    }
}

/// The token in a file, without the line break that ends the file.
pub(super) fn read_token(path: &Path) -> Result<String, &'static str> {
    let file = File::open(path).map_err(|_| "it cannot be opened")?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|_| "it cannot be read")?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not text")?;
    match text.trim() {
        "" => Err("it is empty"),
        token => Ok(token.to_owned()),
    }
}

async fn client_credentials(
    outbound: &Outbound,
    settings: &TokenRequest,
) -> Result<Issued, Denied> {
    let form = vec![("grant_type", Cow::from("client_credentials"))];
    let reply = outbound.ask(token_request(settings, form)).await?;
    issued(&reply)
}

async fn exchange(
    outbound: &Outbound,
    settings: &TokenExchange,
    subject_token: &str,
) -> Result<Issued, Denied> {
    let mut form = vec![
        ("grant_type", Cow::from(EXCHANGE)),
        ("subject_token", Cow::from(subject_token)),
        ("subject_token_type", Cow::from(settings.subject_token_type.as_str())),
    ];
    if let Some(requested) = &settings.requested_token_type {
        form.push(("requested_token_type", Cow::from(requested.as_str())));
    }
    if let Some(path) = &settings.actor_token_file {
        let actor = read_token(path).map_err(Denied::File)?;
        form.push(("actor_token", Cow::from(actor)));
        form.push(("actor_token_type", Cow::from(JWT)));
    }
    let reply = outbound.ask(token_request(&settings.request, form)).await?;
    let issued = issued(&reply)?;
    match issued.token == subject_token {
        true => Err(Denied::Echo),
        false => Ok(issued),
    }
}

/// The request with what every grant has in common.
fn token_request<'a>(
    settings: &'a TokenRequest,
    mut form: Vec<(&'a str, Cow<'a, str>)>,
) -> Request<'a> {
    let TokenRequest { token_url, client_id, client_secret, auth, scopes, audience, resource } =
        settings;
    if !scopes.is_empty() {
        form.push(("scope", Cow::from(scopes.join(" "))));
    }
    form.extend(audience.as_deref().map(|audience| ("audience", Cow::from(audience))));
    form.extend(resource.as_deref().map(|resource| ("resource", Cow::from(resource))));
    let request = match auth {
        ClientAuth::Basic => {
            Request::post_form(token_url, form).basic(client_id, client_secret.expose())
        }
        ClientAuth::Post => {
            form.push(("client_id", Cow::from(client_id.as_str())));
            form.push(("client_secret", Cow::from(client_secret.expose())));
            Request::post_form(token_url, form)
        }
    };
    request.body_bytes_max(REPLY_BYTES_MAX)
}

async fn azure(outbound: &Outbound, identity: &AzureIdentity) -> Result<Issued, Denied> {
    let AzureIdentity { resource, client_id, endpoint, secret } = identity;
    let version = match secret {
        Some(_) => "2019-08-01",
        None => "2018-02-01",
    };
    let resource = percent_encoded(resource);
    let mut url = format!("{endpoint}?api-version={version}&resource={resource}");
    if let Some(client_id) = client_id {
        url += "&client_id=";
        url += &percent_encoded(client_id);
    }
    let request = Request::get(url).guard(Guard::Metadata).body_bytes_max(REPLY_BYTES_MAX);
    let request = match secret {
        Some(secret) => {
            let secret = HeaderValue::from_str(secret.expose()).map_err(|_| Denied::Nobody)?;
            request.field(IDENTITY_HEADER, secret)
        }
        None => request.field(METADATA, HeaderValue::from_static("true")),
    };
    issued(&outbound.ask(request).await?)
}

async fn gcp(outbound: &Outbound, metadata: &GcpMetadata) -> Result<Issued, Denied> {
    let GcpMetadata { wanted, endpoint } = metadata;
    let account = format!("{endpoint}/computeMetadata/v1/instance/service-accounts/default");
    let url = match wanted {
        GcpToken::Identity(audience) => {
            format!("{account}/identity?audience={}&format=full", percent_encoded(audience))
        }
        GcpToken::Access(scopes) if scopes.is_empty() => format!("{account}/token"),
        GcpToken::Access(scopes) => {
            format!("{account}/token?scopes={}", percent_encoded(&scopes.join(",")))
        }
    };
    let google = HeaderValue::from_static("Google");
    let request = Request::get(url)
        .guard(Guard::Metadata)
        .field(METADATA_FLAVOR, google.clone())
        .body_bytes_max(REPLY_BYTES_MAX);
    let reply = outbound.ask(request).await?;
    // Whoever answers without it only happens to have that address.
    if reply.fields.get(METADATA_FLAVOR) != Some(&google) {
        return Err(Denied::Impostor);
    }
    match wanted {
        GcpToken::Access(_) => issued(&reply),
        GcpToken::Identity(_) if reply.is_ok() => {
            Issued::of_jwt(&reply.body, SystemTime::now()).ok_or(Denied::Unusable)
        }
        GcpToken::Identity(_) => Err(refused(&reply)),
    }
}

fn issued(reply: &Reply) -> Result<Issued, Denied> {
    match reply.is_ok() {
        true => Issued::of_json(&reply.body, SystemTime::now()).ok_or(Denied::Unusable),
        false => Err(refused(reply)),
    }
}

fn refused(reply: &Reply) -> Denied {
    Denied::Refused { status: reply.status, error: error_of(&reply.body) }
}

#[cfg(test)]
mod tests {
    use super::{Denied, ask_for};
    use crate::config::{self, Credentials};
    use crate::outbound::Outbound;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    /// An authorization server that answers once, and what it was asked.
    fn issuer(status: u16, body: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let url = format!("http://{}/token", listener.local_addr().expect("an address"));
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let (mut seen, mut part) = (Vec::new(), [0; 4096]);
            loop {
                let read = stream.read(&mut part).expect("bytes");
                seen.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&seen).into_owned();
                let Some((head, form)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if form.len() == length.map_or(0, |length| length.parse().expect("a number")) {
                    let head =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(format!("{head}{body}").as_bytes()).expect("written");
                    return text;
                }
            }
        });
        (url, asked)
    }

    fn settings(exchange: &str) -> Credentials {
        let yaml = format!(
            "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/], credentials: {{ token_exchange: {{ {exchange} }} }} }} }}\nroutes: [{{ path: /, server: s }}]"
        );
        let mut settings = config::parse(&yaml, "t", &|_| None).expect("settings");
        settings.servers.remove(0).credentials.expect("credentials")
    }

    fn ask(settings: &Credentials, subject: &str) -> Result<String, Denied> {
        let outbound = Outbound::new(None).expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = ask_for(&outbound, settings, Some(subject));
        runtime.expect("a runtime").block_on(asked).map(|issued| issued.token)
    }

    #[test]
    fn a_callers_token_is_exchanged_as_rfc_8693_says() {
        let body = r#"{"access_token":"new","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":60}"#;
        let (url, asked) = issuer(200, body);
        let settings = settings(&format!(
            "token_url: '{url}', client_id: me, client_secret: pw, scopes: [a, b], audience: crm, resource: 'https://crm/mcp', requested_token_type: 'urn:x'"
        ));
        assert_eq!(ask(&settings, "caller-token").expect("a token"), "new");
        let asked = asked.join().expect("asked");
        assert!(asked.starts_with("POST /token HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: Basic bWU6cHc=\r\n"), "{asked}");
        let expected = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=caller-token&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&requested_token_type=urn%3Ax&scope=a+b&audience=crm&resource=https%3A%2F%2Fcrm%2Fmcp";
        assert!(asked.ends_with(expected), "{asked}");
    }

    #[test]
    fn what_an_issuer_may_do_wrong_becomes_no_credential() {
        let check = |status, body, of_subject: bool| {
            let (url, asked) = issuer(status, body);
            let settings =
                settings(&format!("token_url: '{url}', client_id: me, client_secret: pw"));
            let denied = ask(&settings, "caller-token").expect_err(body);
            asked.join().expect("asked");
            assert_eq!(denied.is_of_subject(), of_subject, "{body}");
            assert!(!denied.to_string().contains("caller-token"), "{denied}");
        };
        check(400, r#"{"error":"invalid_grant","error_description":"caller-token"}"#, true);
        check(400, r#"{"error":"invalid_request"}"#, true);
        check(403, r#"{"error":"access_denied"}"#, true);
        check(401, r#"{"error":"invalid_client"}"#, false);
        check(400, r#"{"error":"caller-token"}"#, false);
        check(503, r#"{"error":"invalid_grant"}"#, false);
        // The caller's own token must never reach a server.
        check(200, r#"{"access_token":"caller-token","token_type":"Bearer"}"#, true);
        check(200, r#"{"access_token":"caller-token","token_type":"DPoP"}"#, false);
    }
}
