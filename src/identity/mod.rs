//! Who is calling? Proof in the headers becomes a [`Caller`], or the request ends here.
//!
//! Whatever can be known is known without waiting: keys of the configuration, tokens whose signature
//! was checked, answers that an issuer gave a moment ago, certificates. Only a token of which nobody
//! knows yet is [`Proof::Ask`]ed about.

mod api_key;
mod audience;
mod authorities;
mod caller;
mod certificate;
mod challenge;
mod claims;
mod introspection;
mod issuer;
mod jwt;
mod key_set;
mod metadata;
mod revoked;
mod verified;
mod vouched;
#[cfg(test)]
mod tests;

pub use api_key::NewKey;
pub use audience::Audience;
pub use authorities::Authorities;
pub use caller::{Caller, Method, Proven};
pub use certificate::{PeerCertificate, Shown};
pub use challenge::Challenge;
pub use metadata::ProtectedResource;
pub use revoked::{KeyState, Revoked, TooMany};

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::config;
use api_key::ApiKeys;
use authorities::Known;
use certificate::Holders;
use introspection::{Verdict, digest_of, seconds};
use issuer::{Fetch, Finding, Issuer};
use jwt::{Read, Token};
use verified::Entry;

/// A longer token is refused before anything is done with it.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The ways of proof that the configuration allows.
pub struct Identity {
    api_keys: ApiKeys,
    known: Known,
    authorities: Arc<Authorities>,
    holders: Option<Holders>,
    anonymous: Option<Arc<Caller>>,
}

/// What a request shows.
#[derive(Clone, Copy, Default)]
pub struct Credential<'a> {
    /// The value of `Authorization`, the only place a token is read from.
    pub authorization: Option<&'a [u8]>,
    /// A certificate that somebody has checked.
    pub certificate: Option<Shown<'a>>,
}

impl fmt::Debug for Credential<'_> {
    /// Only whether there is a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("authorization", &self.authorization.is_some())
            .field("certificate", &self.certificate)
            .finish()
    }
}

/// What a credential proves.
#[must_use]
pub enum Proof<'a> {
    /// Who it is.
    Known(Arc<Caller>),
    /// Nobody.
    Refused(Unproven),
    /// Somebody must be asked.
    Ask(Pending<'a>),
}

/// Why nobody was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// The request carries no credential and anonymous callers are refused.
    Missing,
    /// The request carries a credential that proves nothing. It is refused even where anonymous
    /// callers are welcome: a bad proof must never fall back to none (CVE-2026-12773), nor to another
    /// kind of proof.
    Invalid,
    /// The request carries a token, and who could say what it is worth does not answer.
    Unavailable,
}

/// A token of which nobody knows yet. May be dropped at any time.
pub struct Pending<'a> {
    identity: &'a Identity,
    audience: &'a Audience,
    token: Box<str>,
    question: Question<'a>,
}

enum Question<'a> {
    /// Are there other keys, after so many fetches of them?
    Keys(&'a Arc<Issuer>, u64),
    /// What is this token worth?
    Worth,
}

impl Identity {
    /// Builds the tables once, so that a request only looks up.
    pub fn new(settings: &config::Identity, authorities: &Arc<Authorities>) -> Self {
        let anonymous = match settings.anonymous {
            config::Anonymous::Allow => Some(Arc::new(Caller::anonymous())),
            config::Anonymous::Deny => None,
        };
        Self {
            api_keys: ApiKeys::new(&settings.api_keys, authorities.revoked()),
            known: authorities.prepare(settings),
            authorities: Arc::clone(authorities),
            holders: settings.certificates.clone().map(Holders::new),
            anonymous,
        }
    }

    /// Lets this configuration take effect: from now on the keys of its issuers are kept.
    pub fn install(&self) {
        self.authorities.install(&self.known);
    }

    /// Who vouches for callers, whatever the configuration.
    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.authorities
    }

    /// The header in which a trusted proxy says whose certificate it has checked.
    pub fn certificate_header(&self) -> Option<&str> {
        self.holders.as_ref().and_then(Holders::header)
    }

    /// The caller who shows this, to the route that is this audience.
    pub fn authenticate<'a>(
        &'a self,
        credential: Credential<'_>,
        audience: &'a Audience,
        now: SystemTime,
    ) -> Proof<'a> {
        let Some(authorization) = credential.authorization else {
            return self.without_token(credential.certificate);
        };
        match bearer(authorization) {
            Some(token) if token.len() <= TOKEN_BYTES_MAX => {
                self.prove(token, audience, seconds(now))
            }
            Some(_) | None => Proof::Refused(Unproven::Invalid),
        }
    }

    fn without_token(&self, certificate: Option<Shown<'_>>) -> Proof<'_> {
        let proven = match (&self.holders, certificate, &self.anonymous) {
            (Some(holders), Some(shown), _) => holders.find(shown),
            (_, _, Some(anonymous)) => Ok(Arc::clone(anonymous)),
            (_, _, None) => Err(Unproven::Missing),
        };
        proven.into()
    }

    /// The caller behind a token.
    fn prove<'a>(&'a self, token: &str, audience: &'a Audience, now_s: u64) -> Proof<'a> {
        let Known { issuers, introspectors } = &self.known;
        if !issuers.is_empty() {
            let found = self.authorities.verified.find(token.as_bytes(), issuers, now_s);
            if let Some(entry) = found {
                return entry.vouched.at(audience).into();
            }
        }
        if let Some(caller) = self.api_keys.find(token.as_bytes()) {
            return Proof::Known(Arc::clone(caller));
        }
        if api_key::is_malformed(token) {
            return Proof::Refused(Unproven::Invalid);
        }
        if !issuers.is_empty() {
            match Token::read(token) {
                Read::Signed(signed) => {
                    let of = |issuer: &&Arc<Issuer>| {
                        signed.issuer() == Some(issuer.settings.issuer.as_str())
                    };
                    if let Some(issuer) = issuers.iter().find(of) {
                        return self.prove_signed(issuer, token, signed, audience, now_s);
                    }
                }
                Read::Broken => return Proof::Refused(Unproven::Invalid),
                Read::Opaque => {}
            }
        }
        match introspectors.is_empty() {
            true => Proof::Refused(Unproven::Invalid),
            false => self.prove_opaque(token, audience, now_s),
        }
    }

    fn prove_signed<'a>(
        &'a self,
        issuer: &'a Arc<Issuer>,
        token: &str,
        signed: Token<'_>,
        audience: &'a Audience,
        now_s: u64,
    ) -> Proof<'a> {
        let fetches = issuer.fetches();
        let unproven = match self.find(issuer, token, signed, now_s) {
            Ok(entry) => return entry.vouched.at(audience).into(),
            Err(NotFound::False) => return Proof::Refused(Unproven::Invalid),
            Err(NotFound::KeyUnknown) => Unproven::Invalid,
            Err(NotFound::NoKeys) => Unproven::Unavailable,
        };
        match issuer.fetch(fetches, Instant::now()) {
            Fetch::MayHelp(fetches) => {
                let question = Question::Keys(issuer, fetches);
                Proof::Ask(Pending { identity: self, audience, token: token.into(), question })
            }
            Fetch::WasJustDone => Proof::Refused(unproven),
            Fetch::IsCrowded => Proof::Refused(Unproven::Unavailable),
        }
    }

    /// Checks a signature, and keeps what came of it.
    fn find(
        &self,
        issuer: &Arc<Issuer>,
        token: &str,
        signed: Token<'_>,
        now_s: u64,
    ) -> Result<Arc<Entry>, NotFound> {
        match issuer.check(signed, now_s) {
            Finding::True(vouched, keys) => {
                let entry = Arc::new(Entry { vouched, issuer: Arc::clone(issuer), keys });
                self.authorities.verified.keep(token.as_bytes(), Arc::clone(&entry));
                Ok(entry)
            }
            Finding::False => Err(NotFound::False),
            Finding::KeyUnknown => Err(NotFound::KeyUnknown),
            Finding::NoKeys => Err(NotFound::NoKeys),
        }
    }

    /// A token that its issuer must be asked about, from what the issuers said of it lately.
    fn prove_opaque<'a>(&'a self, token: &str, audience: &'a Audience, now_s: u64) -> Proof<'a> {
        let (digest, now) = (digest_of(token.as_bytes()), Instant::now());
        let mut unproven = Unproven::Invalid;
        for introspector in &self.known.introspectors {
            let Some(answer) = introspector.answered(&digest, now, now_s) else {
                let question = Question::Worth;
                return Proof::Ask(Pending {
                    identity: self,
                    audience,
                    token: token.into(),
                    question,
                });
            };
            match &answer.verdict {
                Verdict::Good(vouched) => return vouched.at(audience).into(),
                Verdict::Bad => {}
                Verdict::Silent => unproven = Unproven::Unavailable,
            }
        }
        Proof::Refused(unproven)
    }
}

/// Why a signed token was not found to be true.
enum NotFound {
    False,
    KeyUnknown,
    NoKeys,
}

impl Pending<'_> {
    /// Asks, and waits for the answer no longer than the configuration says.
    ///
    /// # Errors
    /// When the answer proves nobody, or does not come.
    pub async fn answer(self) -> Result<Arc<Caller>, Unproven> {
        match self.question {
            Question::Keys(issuer, fetches) => {
                issuer.fetched(fetches).await;
                let Read::Signed(signed) = Token::read(&self.token) else {
                    return Err(Unproven::Invalid);
                };
                let now_s = seconds(SystemTime::now());
                match self.identity.find(issuer, &self.token, signed, now_s) {
                    Ok(entry) => entry.vouched.at(self.audience),
                    Err(NotFound::False | NotFound::KeyUnknown) => Err(Unproven::Invalid),
                    Err(NotFound::NoKeys) => Err(Unproven::Unavailable),
                }
            }
            Question::Worth => self.ask_all().await,
        }
    }

    /// Asks one issuer after the other until one knows the token.
    async fn ask_all(&self) -> Result<Arc<Caller>, Unproven> {
        let Authorities { outbound, metrics, .. } = &*self.identity.authorities;
        let digest = digest_of(self.token.as_bytes());
        let mut unproven = Unproven::Invalid;
        for introspector in &self.identity.known.introspectors {
            let answer = introspector.ask(&self.token, &digest, outbound, metrics).await;
            match &answer.verdict {
                Verdict::Good(vouched) => return vouched.at(self.audience),
                Verdict::Bad => {}
                Verdict::Silent => unproven = Unproven::Unavailable,
            }
        }
        Err(unproven)
    }
}

impl From<Result<Arc<Caller>, Unproven>> for Proof<'_> {
    fn from(proven: Result<Arc<Caller>, Unproven>) -> Self {
        proven.map_or_else(Self::Refused, Self::Known)
    }
}

/// The token of `Authorization: Bearer <token>` (RFC 6750 section 2.1; the scheme in any case).
pub fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let token = std::str::from_utf8(token.trim_ascii()).ok()?;
    (!token.is_empty()).then_some(token)
}
