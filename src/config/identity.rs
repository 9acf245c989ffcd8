//! Who may call: `identity`.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::certificates::{Certificates, CertificatesText};
use super::links::note_duplicates;
use super::listeners::Listener;
use super::reading::{Fault, Reading};
use super::routes::PublicUrls;
use super::scalars::{Digest, choice_schema, parse_choice};
use super::shape::{At, Field, Scalar, Shape, shape};
use super::tokens::{self, Introspection, IntrospectionText, Jwt, JwtText};
use super::tree::{Kind, Node, compose, hide};

/// How callers prove who they are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whether a call without credentials is served.
    pub anonymous: Anonymous,
    /// The keys that prove a caller; all different.
    pub api_keys: Vec<ApiKey>,
    /// The issuers of signed tokens; all different.
    pub jwt: Vec<Jwt>,
    /// The issuers that are asked about tokens, in this order; all different.
    pub introspection: Vec<Introspection>,
    /// How a client certificate proves a caller.
    pub certificates: Option<Certificates>,
}

/// Whether a call without credentials is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    /// It is.
    Allow,
    /// It is not.
    Deny,
}

/// One API key, known by its digest only.
#[derive(Clone)]
pub struct ApiKey {
    /// Who holds it.
    pub caller: String,
    /// The caller's tenant.
    pub tenant: Option<String>,
    /// What the caller may ask for.
    pub scopes: Vec<String>,
    /// The SHA-256 digest of the key.
    pub sha256: [u8; 32],
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caller, tenant, scopes, sha256: _ } = self;
        let mut shown = f.debug_struct("ApiKey");
        shown
            .field("caller", caller)
            .field("tenant", tenant)
            .field("scopes", scopes)
            .finish_non_exhaustive()
    }
}

shape! {
    /// Who may call.
    IdentityText {
        /// Whether calls without credentials are served: allow or deny; deny where there is any way to prove a caller.
        optional anonymous: Anonymous,
        /// The keys that prove a caller: a list, or the file that holds the list.
        optional api_keys: ApiKeysText,
        /// The issuers of signed tokens (JWT).
        optional jwt: Vec<Field<JwtText>>,
        /// The issuers that are asked about tokens, in this order (RFC 7662).
        optional introspection: Vec<Field<IntrospectionText>>,
        /// How a client certificate proves a caller that sends no token.
        optional certificates: CertificatesText,
    }
}

shape! {
    /// The API keys of an included file.
    IncludedIdentityText {
        /// The keys that prove a caller: a list, or the file that holds the list.
        optional api_keys: ApiKeysText,
    }
}

shape! {
    /// A file that holds a list of API keys.
    KeyFileText {
        /// The file: YAML, a list of the same form, relative to this file.
        required file: PathBuf,
    }
}

shape! {
    /// One API key.
    ApiKeyText {
        /// Who holds it.
        required caller: Label,
        /// The caller's tenant.
        optional tenant: Label,
        /// What the caller may ask for.
        optional scopes: Vec<Field<Scope>>,
        /// The SHA-256 digest of the key in 64 hexadecimal digits.
        required sha256: Digest,
    }
}

/// A list of keys, written here or in a file of its own.
#[derive(Debug)]
pub(super) struct ApiKeysText(Vec<Field<ApiKeyText>>);

impl Shape for ApiKeysText {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        if !matches!(node.kind, Kind::Map(_)) {
            return Shape::read(node, reading).map(Self);
        }
        let KeyFileText { file } = Shape::read(node, reading)?;
        let At { place, head: _, value: path } = file.given()?;
        let path = reading.resolve(place, &path);
        let source = reading.open(&path, Some(place))?;
        let Some(list) = compose(source, reading) else { return Some(Self(Vec::new())) };
        if matches!(list.kind, Kind::Scalar(_)) {
            hide(&list, reading);
        }
        Field::read(&list, reading).value().map(Self)
    }

    fn schema() -> Value {
        json!({ "anyOf": [KeyFileText::schema(), Vec::<Field<ApiKeyText>>::schema()] })
    }
}

/// The name of a caller or a tenant: it stands in logs and metrics.
#[derive(Debug, Clone)]
pub(super) struct Label(String);

impl Scalar for Label {
    const NAME: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        const CHARS_MAX: usize = 256;
        let text = String::parse(text)?;
        if text.chars().count() > CHARS_MAX || text.chars().any(char::is_control) {
            let hint = format!("use at most {CHARS_MAX} characters and no control characters");
            return Err(Fault::new("this is not a name", hint));
        }
        Ok(Self(text))
    }
}

/// A scope as OAuth writes it.
#[derive(Debug, Clone)]
pub(super) struct Scope(pub(super) String);

impl Scalar for Scope {
    const NAME: &'static str = "a scope";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.is_empty()
            || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
        {
            return Err(Fault::new(
                "this is not a scope",
                "a scope has no spaces, quotes or backslashes; write one per list item",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

const ANONYMOUS: &[(&str, Anonymous)] = &[("allow", Anonymous::Allow), ("deny", Anonymous::Deny)];

impl Scalar for Anonymous {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, ANONYMOUS)
    }

    fn schema() -> Value {
        choice_schema(ANONYMOUS)
    }
}

/// Whether some token is only for a route's own URL, so that every route must have one.
pub(super) fn public_urls(main: &Field<IdentityText>) -> PublicUrls {
    let is_needed = |text: &IdentityText| tokens::need_public_urls(&text.jwt, &text.introspection);
    match main.as_value().is_some_and(is_needed) {
        true => PublicUrls::Needed,
        false => PublicUrls::Optional,
    }
}

/// Checks the identity of the main file together with the keys of the included ones.
pub(super) fn check(
    main: Option<IdentityText>,
    included: Vec<IncludedIdentityText>,
    listeners: &[Listener],
    reading: &mut Reading<'_>,
) -> Identity {
    let IdentityText { anonymous, api_keys, jwt, introspection, certificates } =
        main.unwrap_or_default();
    let lists = included.into_iter().map(|IncludedIdentityText { api_keys }| api_keys);
    let lists: Vec<_> = std::iter::once(api_keys)
        .chain(lists)
        .filter(|keys| !matches!(keys, Field::Absent))
        .collect();
    let closed = !lists.is_empty()
        || !matches!(
            (&jwt, &introspection, &certificates),
            (Field::Absent, Field::Absent, Field::Absent)
        );
    let texts = lists.into_iter().filter_map(Field::value).flat_map(|list| list.0);
    let api_keys = check_api_keys(texts.filter_map(Field::value).collect(), reading);
    let certificates =
        certificates.given().map(|text| text.value.check(text.head, listeners, reading));
    let anonymous = match anonymous {
        Field::Given(At { head, value: Anonymous::Deny, .. }) if !closed => {
            reading.problem(
                head,
                "nobody could call: there is no way to prove a caller and anonymous callers are denied",
                "add `api_keys`, `jwt`, `introspection` or `certificates`, or write `anonymous: allow`",
            );
            Anonymous::Deny
        }
        Field::Given(anonymous) => anonymous.value,
        Field::Absent if !closed => {
            note_open_listeners(listeners, reading);
            Anonymous::Allow
        }
        Field::Absent | Field::Faulty => Anonymous::Deny,
    };
    Identity {
        anonymous,
        api_keys,
        jwt: tokens::check_jwt(jwt, reading),
        introspection: tokens::check_introspection(introspection, reading),
        certificates,
    }
}

impl Default for IdentityText {
    fn default() -> Self {
        Self {
            anonymous: Field::Absent,
            api_keys: Field::Absent,
            jwt: Field::Absent,
            introspection: Field::Absent,
            certificates: Field::Absent,
        }
    }
}

fn check_api_keys(texts: Vec<ApiKeyText>, reading: &mut Reading<'_>) -> Vec<ApiKey> {
    let given = texts.iter().filter_map(|text| text.sha256.as_given());
    let digests: Vec<_> = given.map(|digest| (digest.place, digest.value.to_string())).collect();
    let digests = digests.iter().map(|(place, digest)| (*place, digest.as_str()));
    note_duplicates(digests, "this API key is already defined", reading);
    texts.into_iter().filter_map(ApiKeyText::check).collect()
}

impl ApiKeyText {
    fn check(self) -> Option<ApiKey> {
        let Self { caller, tenant, scopes, sha256 } = self;
        let scopes = scopes.or(Vec::new()).into_iter().filter_map(Field::value);
        Some(ApiKey {
            caller: caller.value()?.0,
            tenant: tenant.value().map(|tenant| tenant.0),
            scopes: scopes.map(|scope| scope.0).collect(),
            sha256: sha256.value()?.0,
        })
    }
}

/// Serving everyone on a reachable address must be said, not forgotten.
fn note_open_listeners(listeners: &[Listener], reading: &mut Reading<'_>) {
    for listener in listeners.iter().filter(|listener| !listener.address.ip().is_loopback()) {
        let hint =
            "add `identity:` with `api_keys`, or say so with `identity: { anonymous: allow }`";
        reading.problem(
            listener.place,
            "without `identity` everyone may call, and this address is not loopback",
            hint,
        );
    }
}
