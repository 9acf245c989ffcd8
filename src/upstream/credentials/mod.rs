//! What a server gets instead of the client's credentials, known before a call needs it.
//!
//! A credential is kept until it ends and asked for again well before that, in the background. Who
//! needs one that is not known yet waits for it, all together for one request; where it cannot be
//! had, the call does not go out. It outlives every reload that does not change its settings.

mod ask;
mod callers;
mod kept;
mod renewal;
mod reply;

pub use renewal::Renewal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::timeout;

use crate::config::{self, CredentialSource, WithoutToken};
use crate::outbound::Outbound;
use crate::upstream::now_ms;
use ask::{Denied, ask_for};
use callers::Callers;
use kept::Kept;
use reply::Issued;

/// How long a call waits for a credential that is not known yet.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// One server's credentials.
pub struct Credentials {
    server: String,
    settings: Option<config::Credentials>,
    /// The gateway's own.
    kept: Kept,
    /// Those in exchange for callers' tokens.
    callers: Callers,
    outbound: Arc<OnceLock<Option<Outbound>>>,
    counts: Counts,
}

/// For whom a request to a server is made.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// For the gateway itself: to probe, to list, to end sessions.
    Gateway,
    /// For a caller, with the token it proved itself with, if it was a token.
    Caller(Option<&'a [u8]>),
}

/// A field of the head that goes to the server.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name.
    pub name: HeaderName,
    /// Its value, which `Debug` does not show.
    pub value: HeaderValue,
}

/// What a request carries, as far as that is known at once.
#[derive(Debug)]
pub enum Now {
    /// Nothing.
    Nothing,
    /// This field.
    Known(Field),
    /// It must be asked for first.
    Unknown,
}

/// Why there is no credential, so that the request must not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Whoever gives it does not answer, or does not know the gateway.
    #[error("the credential cannot be had now")]
    Failed,
    /// There is none for this caller.
    #[error("there is no credential for this caller")]
    Refused,
}

/// How often a credential was asked for since this was asked last.
#[derive(Default)]
pub(super) struct Counts {
    issued: AtomicU64,
    denied: AtomicU64,
}

impl Credentials {
    /// The credentials of a server, none of them known but those that are written down.
    pub(super) fn new(
        server: &str,
        settings: Option<config::Credentials>,
        outbound: &Arc<OnceLock<Option<Outbound>>>,
    ) -> Self {
        let credentials = Self {
            server: server.to_owned(),
            kept: Kept::new(),
            callers: Callers::new(settings.as_ref()),
            settings,
            outbound: Arc::clone(outbound),
            counts: Counts::default(),
        };
        match credentials.settings.as_ref().map(|settings| &settings.source) {
            Some(CredentialSource::Value(value)) => {
                if let Ok(mut value) = HeaderValue::from_str(value.expose()) {
                    value.set_sensitive(true);
                    credentials.kept.keep(value, None);
                }
            }
            Some(CredentialSource::TokenFile(path)) => credentials.read_file(path),
            _ => {}
        }
        credentials
    }

    /// What a request for this subject carries. May be dropped at any time.
    ///
    /// # Errors
    /// Why the request must not go out.
    pub async fn of(&self, subject: Subject<'_>) -> Result<Option<Field>, Unavailable> {
        match self.now(subject) {
            Now::Nothing => Ok(None),
            Now::Known(field) => Ok(Some(field)),
            Now::Unknown => {
                // Boxed: it is rare, and has many states.
                let fetching = Box::pin(timeout(WAIT_MAX, self.fetch(subject)));
                let value = fetching.await.unwrap_or(Err(Unavailable::Failed))?;
                Ok(self.field(value))
            }
        }
    }

    /// The same, as far as it is known; never waits.
    pub fn now(&self, subject: Subject<'_>) -> Now {
        let Some(settings) = &self.settings else { return Now::Nothing };
        let value = match (&settings.source, subject) {
            (CredentialSource::TokenExchange(_), Subject::Caller(Some(token))) => {
                self.callers.known(token, now_ms())
            }
            _ => self.kept.value(now_ms()),
        };
        value.and_then(|value| self.field(value)).map_or(Now::Unknown, Now::Known)
    }

    /// The server did not take what it got: it is asked for again soon, in the background.
    pub fn rejected(&self, subject: Subject<'_>) {
        match (self.settings.as_ref().map(|settings| &settings.source), subject) {
            (Some(CredentialSource::TokenExchange(_)), Subject::Caller(Some(token))) => {
                self.callers.doubt(token, now_ms());
            }
            _ => self.kept.doubt(now_ms()),
        }
    }

    /// Whether a request of the gateway's own may lack the credential by nature, so that a server
    /// that does not let it in says nothing bad of itself.
    pub fn is_per_caller(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| match &settings.source {
            CredentialSource::TokenExchange(exchange) => exchange.otherwise == WithoutToken::Refuse,
            _ => false,
        })
    }

    /// Where they come from, as the configuration calls it; empty where there are none.
    pub fn kind(&self) -> &'static str {
        match self.settings.as_ref().map(|settings| &settings.source) {
            None => "",
            Some(CredentialSource::Value(_)) => "value",
            Some(CredentialSource::TokenFile(_)) => "token_file",
            Some(CredentialSource::OauthClient(_)) => "oauth_client",
            Some(CredentialSource::TokenExchange(_)) => "token_exchange",
            Some(CredentialSource::Azure(_)) => "azure_managed_identity",
            Some(CredentialSource::Gcp(_)) => "gcp_metadata",
        }
    }

    /// How often a credential was given and denied since this was asked last.
    pub(super) fn take_counts(&self) -> (u64, u64) {
        let Counts { issued, denied } = &self.counts;
        (issued.swap(0, Ordering::Relaxed), denied.swap(0, Ordering::Relaxed))
    }

    fn field(&self, value: HeaderValue) -> Option<Field> {
        let settings = self.settings.as_ref()?;
        Some(Field { name: settings.header.clone(), value })
    }

    async fn fetch(&self, subject: Subject<'_>) -> Result<HeaderValue, Unavailable> {
        let Some(settings) = &self.settings else { return Err(Unavailable::Failed) };
        match (&settings.source, subject) {
            (CredentialSource::Value(_) | CredentialSource::TokenFile(_), _) => {
                Err(Unavailable::Failed)
            }
            (CredentialSource::TokenExchange(_), Subject::Caller(Some(token))) => {
                self.callers.fetch(token, |token| self.ask(Some(token))).await
            }
            (CredentialSource::TokenExchange(_), _) if self.is_per_caller() => {
                Err(Unavailable::Refused)
            }
            _ => self.kept.fetch(|| self.ask(None)).await,
        }
    }

    /// Asks whoever gives the credential, and says how it went.
    async fn ask(&self, subject_token: Option<&str>) -> Result<(HeaderValue, Issued), Denied> {
        let Some(settings) = &self.settings else { return Err(Denied::Nobody) };
        let outbound = self.outbound.get_or_init(|| Outbound::new(None).ok());
        let asked = match outbound {
            Some(outbound) => ask_for(outbound, settings, subject_token).await,
            None => Err(Denied::Nobody),
        };
        let valued = asked.and_then(|issued| {
            let value = issued.value(settings.scheme.as_deref()).ok_or(Denied::Unusable)?;
            Ok((value, issued))
        });
        let (server, counts) = (self.server.as_str(), &self.counts);
        match &valued {
            Ok(_) => {
                counts.issued.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(server, "credential issued");
            }
            Err(denied) => {
                counts.denied.fetch_add(1, Ordering::Relaxed);
                match denied.is_of_subject() {
                    true => tracing::info!(server, why = %denied, "no credential for this caller"),
                    false => tracing::warn!(server, why = %denied, "no credential"),
                }
            }
        }
        valued
    }

    fn read_file(&self, path: &std::path::Path) {
        let scheme = self.settings.as_ref().and_then(|settings| settings.scheme.as_deref());
        let read = ask::read_token(path).and_then(|token| {
            let issued = Issued::for_good(token);
            issued.value(scheme).ok_or("it holds characters that a header field may not hold")
        });
        match (read, self.kept.value(now_ms())) {
            (Ok(value), before) => {
                if self.kept.keep_when_settled(value.clone()) && before.is_some_and(|v| v != value)
                {
                    tracing::info!(server = self.server, "the file of the credential was replaced");
                }
            }
            (Err(why), before) => {
                if self.kept.is_first_failure() {
                    let file = path.display();
                    let kept = before.is_some();
                    tracing::warn!(server = self.server, %file, why, kept, "no credential in the file");
                }
            }
        }
    }
}
