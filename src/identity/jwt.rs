//! Signed tokens (RFC 7519): taken apart strictly, and checked against the keys of their issuer.
//!
//! A token chooses nothing: the algorithms, the keys and the addresses are those of the
//! configuration. `jku`, `x5u`, `jwk` and `x5c` in its head are not even read.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;
use serde_json::{Map, Value};

use super::caller::Method;
use super::claims::{self, moment};
use super::key_set::KeySet;
use super::vouched::Vouched;
use crate::config::{self, Algorithm, TokenType};

/// How long a signature that was checked is not checked again.
const BELIEVED_S: u64 = 300;

/// A token whose signature nobody has checked.
pub(super) struct Token<'t> {
    message: &'t [u8],
    signature: &'t str,
    head: Map<String, Value>,
    claims: Map<String, Value>,
}

impl fmt::Debug for Token<'_> {
    /// Without anything of it: who reads a log must not be able to use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a text turns out to be.
#[derive(Debug)]
pub(super) enum Read<'t> {
    /// A token that may be signed.
    Signed(Token<'t>),
    /// Something else, which only its issuer understands.
    Opaque,
    /// A token that nobody should believe.
    Broken,
}

/// Why a token proves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Whatever keys there are.
    Invalid,
    /// It names a key that the set does not hold.
    KeyUnknown,
}

impl<'t> Token<'t> {
    /// Takes a text apart.
    pub(super) fn read(text: &'t str) -> Read<'t> {
        let Some((message, signature)) = text.rsplit_once('.') else { return Read::Opaque };
        let Some((head, claims)) = message.split_once('.') else { return Read::Opaque };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let Some(head) = decode(head).filter(|head| head.trim_ascii_start().starts_with(b"{"))
        else {
            return Read::Opaque;
        };
        let parts = claims::parse(&head).zip(decode(claims).and_then(|json| claims::parse(&json)));
        let Some((head, claims)) = parts else { return Read::Broken };
        Read::Signed(Self { message: message.as_bytes(), signature, head, claims })
    }

    /// Who says to have issued it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// What it proves, if its issuer is the one of these settings and these are its keys.
    pub(super) fn check(
        self,
        settings: &config::Jwt,
        keys: &KeySet,
        now_s: u64,
    ) -> Result<Vouched, Fault> {
        if self.issuer() != Some(&settings.issuer) {
            return Err(Fault::Invalid);
        }
        let algorithm = self.algorithm(settings).ok_or(Fault::Invalid)?;
        let until_s = self.until_s(settings.leeway.as_secs(), now_s).ok_or(Fault::Invalid)?;
        let id = match self.head.get("kid") {
            Some(id) => Some(id.as_str().ok_or(Fault::Invalid)?),
            None => None,
        };
        if id.is_some_and(|id| !keys.knows(id)) {
            return Err(Fault::KeyUnknown);
        }
        let is_signed = keys.find(id, algorithm).any(|key| {
            crypto::verify(self.signature, self.message, key, of_library(algorithm)) == Ok(true)
        });
        if !is_signed {
            return Err(Fault::Invalid);
        }
        let until_s = until_s.min(now_s.saturating_add(BELIEVED_S));
        let Self { claims, .. } = self;
        claims::vouched(claims, &settings.issuer, &settings.meaning, Method::Jwt, until_s)
            .ok_or(Fault::Invalid)
    }

    /// The algorithm, if the head asks for nothing that is not done here.
    fn algorithm(&self, settings: &config::Jwt) -> Option<Algorithm> {
        // Extensions that must be understood (RFC 7515 section 4.1.11), and a payload that is not
        // encoded (RFC 7797): none of them is.
        if self.head.contains_key("crit") || self.head.contains_key("b64") {
            return None;
        }
        let kind = match self.head.get("typ") {
            Some(kind) => Some(kind.as_str()?),
            None => None,
        };
        let is = |known: &str| kind.is_some_and(|kind| kind.eq_ignore_ascii_case(known));
        let is_access_token = is("at+jwt") || is("application/at+jwt");
        let fits = match settings.token_type {
            TokenType::AccessToken => is_access_token,
            // Others are for another purpose: a logout, a proof of possession.
            TokenType::Any => is_access_token || kind.is_none() || is("JWT"),
        };
        let algorithm = Algorithm::named(self.head.get("alg")?.as_str()?)?;
        (fits && settings.algorithms.contains(&algorithm)).then_some(algorithm)
    }

    /// The end of its time, if now lies within it.
    fn until_s(&self, leeway_s: u64, now_s: u64) -> Option<u64> {
        let until_s = moment(self.claims.get("exp")?)?.saturating_add(leeway_s);
        let from_s = match self.claims.get("nbf") {
            Some(from) => moment(from)?,
            None => 0,
        };
        (now_s < until_s && from_s <= now_s.saturating_add(leeway_s)).then_some(until_s)
    }
}

fn of_library(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
    }
}
