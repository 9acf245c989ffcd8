//! The proven identity of a request.

use std::fmt;

use ring::digest::{Context, SHA256};
use serde_json::{Map, Value};

use super::claims::moment;

/// Who calls, proven. Everything about one caller is computed once, when its proof is checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    proven: Proven,
    digest: [u8; 16],
    fingerprint: [u8; 16],
}

/// What a proof says of a caller.
#[derive(PartialEq, Eq)]
pub struct Proven {
    /// The name for logs, metrics and rules.
    pub id: String,
    /// Who vouches for the caller beyond this gateway; the same id of two issuers is two callers.
    pub issuer: Option<String>,
    /// The tenant the caller belongs to.
    pub tenant: Option<String>,
    /// What the caller may ask for.
    pub scopes: Vec<String>,
    /// What else its token says.
    pub claims: Map<String, Value>,
    /// How the caller proved itself.
    pub method: Method,
}

impl fmt::Debug for Proven {
    /// Without the claims: what a token says is nobody else's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, issuer, tenant, scopes, claims: _, method } = self;
        f.debug_struct("Proven")
            .field("id", id)
            .field("issuer", issuer)
            .field("tenant", tenant)
            .field("scopes", scopes)
            .field("method", method)
            .finish_non_exhaustive()
    }
}

/// How the caller proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all, where the configuration allows that.
    Anonymous,
    /// By an API key.
    ApiKey,
    /// By a signed token (RFC 7519).
    Jwt,
    /// By a token that its issuer vouches for when asked (RFC 7662).
    Introspection,
    /// By a client certificate.
    Certificate,
}

impl Method {
    /// The method's name in rules and in the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Introspection => "introspection",
            Self::Certificate => "certificate",
        }
    }
}

impl Caller {
    /// The caller that a proof speaks of.
    pub fn new(mut proven: Proven) -> Self {
        proven.scopes.sort_unstable();
        proven.scopes.dedup();
        let Proven { id, issuer, tenant, scopes, claims, method } = &proven;
        // Their JSON form keeps the parts apart; maps are in the order of their keys.
        let who = serde_json::json!([method.as_str(), id, issuer, tenant]);
        let all = serde_json::json!([id, issuer, tenant, scopes, claims, method.as_str()]);
        let digest = short(who.to_string().as_bytes());
        let fingerprint = short(all.to_string().as_bytes());
        Self { proven, digest, fingerprint }
    }

    /// The one caller that everybody without a credential is.
    pub fn anonymous() -> Self {
        Self::new(Proven {
            id: "anonymous".to_owned(),
            issuer: None,
            tenant: None,
            scopes: Vec::new(),
            claims: Map::new(),
            method: Method::Anonymous,
        })
    }

    /// The name, for logs, metrics and rules.
    pub fn id(&self) -> &str {
        &self.proven.id
    }

    /// Who vouches for the caller beyond this gateway.
    pub fn issuer(&self) -> Option<&str> {
        self.proven.issuer.as_deref()
    }

    /// The tenant the caller belongs to.
    pub fn tenant(&self) -> Option<&str> {
        self.proven.tenant.as_deref()
    }

    /// The scopes granted to the caller, in order, each once.
    pub fn scopes(&self) -> &[String] {
        &self.proven.scopes
    }

    /// What else the caller's token says.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.proven.claims
    }

    /// How the caller proved itself.
    pub fn method(&self) -> Method {
        self.proven.method
    }

    /// When its token ends, in seconds since 1970; `None` for what has no end of its own.
    pub fn expires_s(&self) -> Option<u64> {
        match self.proven.method {
            Method::Jwt | Method::Introspection => moment(self.proven.claims.get("exp")?),
            Method::Anonymous | Method::ApiKey | Method::Certificate => None,
        }
    }

    /// Who the caller is, whatever it may do: what sessions are bound to and limits count by. The
    /// method is in it (a key named `anonymous` is not everybody), and so are issuer and tenant.
    pub fn digest(&self) -> &[u8; 16] {
        &self.digest
    }

    /// Who the caller is and all that rules may ask about it: two callers with one fingerprint are
    /// decided alike.
    pub fn fingerprint(&self) -> &[u8; 16] {
        &self.fingerprint
    }
}

fn short(bytes: &[u8]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    let mut short = [0; 16];
    short.copy_from_slice(&context.finish().as_ref()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::{Caller, Method, Proven};
    use serde_json::Map;

    fn proven(id: &str) -> Proven {
        Proven {
            id: id.to_owned(),
            issuer: None,
            tenant: None,
            scopes: Vec::new(),
            claims: Map::new(),
            method: Method::Jwt,
        }
    }

    fn caller(method: Method, issuer: Option<&str>, scopes: &[&str]) -> Caller {
        Caller::new(Proven {
            id: "anonymous".to_owned(),
            issuer: issuer.map(str::to_owned),
            tenant: None,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            claims: Map::new(),
            method,
        })
    }

    #[test]
    fn callers_with_one_name_and_two_proofs_differ() {
        let by_key = caller(Method::ApiKey, None, &[]);
        assert_ne!(by_key.digest(), Caller::anonymous().digest());
        let (one, other) = (
            caller(Method::Jwt, Some("https://a"), &[]),
            caller(Method::Jwt, Some("https://b"), &[]),
        );
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn one_name_in_two_tenants_is_two_callers() {
        let of = |issuer: Option<&str>, tenant: Option<&str>| {
            *Caller::new(Proven {
                id: "agent".to_owned(),
                issuer: issuer.map(str::to_owned),
                tenant: tenant.map(str::to_owned),
                scopes: Vec::new(),
                claims: Map::new(),
                method: Method::ApiKey,
            })
            .digest()
        };
        let all = [
            of(None, None),
            of(None, Some("")),
            of(None, Some("a")),
            of(None, Some("b")),
            of(Some("a"), None),
            of(Some("a"), Some("a")),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "row {index}");
        }
    }

    #[test]
    fn what_a_token_says_is_never_printed() {
        let claims = serde_json::json!({ "email": "ann@example.com" });
        let serde_json::Value::Object(claims) = claims else { unreachable!() };
        let caller = Caller::new(Proven { claims, ..proven("ann") });
        let printed = format!("{caller:?}");
        assert!(printed.contains("ann") && !printed.contains("example.com"), "{printed}");
    }

    #[test]
    fn what_a_caller_may_do_changes_its_fingerprint_and_not_its_digest() {
        let (less, more) =
            (caller(Method::ApiKey, None, &["a"]), caller(Method::ApiKey, None, &["b", "a", "b"]));
        assert_eq!(less.digest(), more.digest());
        assert_ne!(less.fingerprint(), more.fingerprint());
        assert_eq!(more.scopes(), ["a", "b"]);
        assert_eq!(more.fingerprint(), caller(Method::ApiKey, None, &["a", "b"]).fingerprint());
    }
}
