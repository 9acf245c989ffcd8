//! Tokens that others issue: `identity.jwt` (signed) and `identity.introspection` (asked for).

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::limits::Rate;
use super::links::note_duplicates;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{DurationOrZero, choice_schema, parse_choice};
use super::secret::Secret;
use super::shape::{At, Field, Scalar, shape};
use super::url::{Scheme, Url};

/// Clocks of well-kept machines differ by less.
const LEEWAY_MAX: Duration = Duration::from_secs(60);
/// More often than this nobody should be asked for keys.
const REFRESH_MIN: Duration = Duration::from_secs(1);
/// An issuer is asked about tokens at most so often, where nothing else is said.
const QUESTIONS: NonZeroU32 = NonZeroU32::new(500).unwrap();

/// An issuer of signed tokens (RFC 7519, RFC 9068).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// What `iss` must be, to the letter.
    pub issuer: String,
    /// Where its keys are.
    pub jwks: Jwks,
    /// The algorithms that are accepted; never empty, all of public keys.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// Who may send its tokens where, and what they say of the caller.
    pub meaning: Meaning,
    /// What `typ` must say.
    pub token_type: TokenType,
}

/// An issuer that is asked about its tokens (RFC 7662).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    /// Who vouches for the callers; an answer that names another issuer is refused.
    pub issuer: String,
    /// Where it is asked.
    pub url: String,
    /// Who the gateway is at the issuer.
    pub client_id: Option<String>,
    /// The proof of that.
    pub client_secret: Option<Secret>,
    /// How long an answer is believed at most; zero asks for every request.
    pub cache: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How often it is asked at most; anybody can send tokens that it must be asked about.
    pub rate: Rate,
    /// For whom its tokens are, and what it says of the caller.
    pub meaning: Meaning,
}

/// For whom an issuer's tokens are, and what they say of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// The claim that names the caller.
    pub caller: String,
    /// What stands before the caller's name.
    pub caller_prefix: String,
    /// The claim that names the tenant.
    pub tenant: Option<String>,
    /// Audiences that are accepted on every route, beside the route's own.
    pub audiences: Vec<String>,
}

/// Where an issuer's keys are, and how they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwks {
    /// Where they are.
    pub source: KeySource,
    /// How often they are fetched.
    pub refresh: Duration,
    /// The least time between two fetches, whatever tokens ask for.
    pub cooldown: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// At a URL: https, or http on this machine.
    Url(String),
    /// In a file, which is read again when it changes.
    File(PathBuf),
}

/// An algorithm of public keys (RFC 7518, RFC 8037). Others cannot be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say everything")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// What `typ` of a token must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// Nothing, `JWT` or `at+jwt`.
    Any,
    /// `at+jwt` (RFC 9068), so that an identity token is no access token.
    AccessToken,
}

shape! {
    /// An issuer of signed tokens.
    JwtText {
        /// What the claim iss must be, to the letter.
        required issuer: Issuer,
        /// Where its keys are.
        required jwks: JwksText,
        /// The algorithms that are accepted, of public keys only; RS256 and ES256 by default.
        optional algorithms: Vec<Field<Algorithm>>,
        /// How far the issuer's clock may be off, at most 60s.
        optional leeway: DurationOrZero,
        /// The claim that names the caller.
        optional caller: String,
        /// What is put before the caller's name; nothing by default.
        optional caller_prefix: String,
        /// The claim that names the tenant; none by default.
        optional tenant: String,
        /// Audiences that are accepted on every route beside the route's public_url; none by default.
        optional audiences: Vec<Field<String>>,
        /// What the header typ must say: any (nothing, JWT or at+jwt) or at+jwt.
        optional token_type: TokenType,
    }
}

shape! {
    /// Where an issuer's keys are: a url or a file.
    JwksText {
        /// Where they are fetched: https, or http on this machine.
        optional url: IssuerUrl,
        /// A file with them, which is read again when it changes.
        optional file: PathBuf,
        /// How often they are fetched.
        optional refresh: Duration,
        /// The least time between two fetches, whatever tokens ask for.
        optional cooldown: Duration,
        /// How long a fetch may take.
        optional timeout: Duration,
    }
}

shape! {
    /// An issuer that is asked about its tokens (RFC 7662).
    IntrospectionText {
        /// Who vouches for the callers; an answer that names another issuer is refused.
        required issuer: Issuer,
        /// Where it is asked: https, or http on this machine.
        required url: IssuerUrl,
        /// Who the gateway is at the issuer; without it the gateway does not say.
        optional client_id: String,
        /// The proof of that; file:PATH reads it from a file.
        optional client_secret: Secret,
        /// How long an answer is believed at most; 0s asks for every request.
        optional cache: DurationOrZero,
        /// How long an answer may take.
        optional timeout: Duration,
        /// How often it is asked at most; requests beyond that are refused with 503.
        optional rate: Rate,
        /// The member of the answer that names the caller.
        optional caller: String,
        /// What is put before the caller's name; nothing by default.
        optional caller_prefix: String,
        /// The member of the answer that names the tenant; none by default.
        optional tenant: String,
        /// Audiences that are accepted on every route beside the route's public_url; none by default.
        optional audiences: Vec<Field<String>>,
    }
}

/// The identifier of an issuer: a URL, kept as written, because it is compared to the letter.
#[derive(Debug, Clone)]
pub(super) struct Issuer(String);

impl Scalar for Issuer {
    const NAME: &'static str = "a URL";

    fn parse(text: &str) -> Result<Self, Fault> {
        Url::parse(text).map(|_| Self(text.to_owned()))
    }
}

/// Where the gateway asks: nobody on the way may answer instead.
#[derive(Debug, Clone)]
pub(super) struct IssuerUrl(String);

impl Scalar for IssuerUrl {
    const NAME: &'static str = "a URL";

    fn parse(text: &str) -> Result<Self, Fault> {
        let url = Url::parse(text)?;
        let address = url.host.parse::<std::net::IpAddr>();
        let is_here = url.host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        if url.scheme == Scheme::Http && !is_here {
            return Err(Fault::new("this is asked over https only", "write https://"));
        }
        Ok(Self(url.with_path(&url.path_and_query)))
    }
}

const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

impl Algorithm {
    /// The algorithm of this name, to the letter.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

impl Scalar for Algorithm {
    const NAME: &'static str = "an algorithm";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "HS256" | "HS384" | "HS512" => Err(Fault::new(
                "who can check such a signature can also make one",
                "use an algorithm of public keys, such as RS256 or ES256",
            )),
            "none" => Err(Fault::new("a token without signature proves nothing", "name RS256")),
            _ => parse_choice(text, ALGORITHMS),
        }
    }

    fn schema() -> Value {
        choice_schema(ALGORITHMS)
    }
}

const TOKEN_TYPES: &[(&str, TokenType)] =
    &[("any", TokenType::Any), ("at+jwt", TokenType::AccessToken)];

impl Scalar for TokenType {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, TOKEN_TYPES)
    }

    fn schema() -> Value {
        choice_schema(TOKEN_TYPES)
    }
}

/// Whether the tokens of some issuer are only for a route's own URL.
pub(super) fn need_public_urls(
    jwt: &Field<Vec<Field<JwtText>>>,
    introspection: &Field<Vec<Field<IntrospectionText>>>,
) -> bool {
    fn some<T>(
        list: &Field<Vec<Field<T>>>,
        audiences: fn(&T) -> &Field<Vec<Field<String>>>,
    ) -> bool {
        let texts = list.as_given().into_iter().flat_map(|list| &list.value);
        texts.filter_map(Field::as_given).any(|text| match audiences(&text.value) {
            Field::Absent => true,
            Field::Given(list) => list.value.is_empty(),
            Field::Faulty => false,
        })
    }
    some(jwt, |text| &text.audiences) || some(introspection, |text| &text.audiences)
}

/// Checks the issuers of signed tokens.
pub(super) fn check_jwt(texts: Field<Vec<Field<JwtText>>>, reading: &mut Reading<'_>) -> Vec<Jwt> {
    let texts: Vec<JwtText> = texts.or(Vec::new()).into_iter().filter_map(Field::value).collect();
    note_issuers(texts.iter().map(|text| &text.issuer), reading);
    texts.into_iter().filter_map(|text| text.check(reading)).collect()
}

/// Checks the issuers that are asked.
pub(super) fn check_introspection(
    texts: Field<Vec<Field<IntrospectionText>>>,
    reading: &mut Reading<'_>,
) -> Vec<Introspection> {
    let texts = texts.or(Vec::new());
    let texts: Vec<IntrospectionText> = texts.into_iter().filter_map(Field::value).collect();
    note_issuers(texts.iter().map(|text| &text.issuer), reading);
    texts.into_iter().filter_map(|text| text.check(reading)).collect()
}

fn note_issuers<'t>(issuers: impl Iterator<Item = &'t Field<Issuer>>, reading: &mut Reading<'_>) {
    let issuers = issuers.filter_map(Field::as_given);
    let issuers = issuers.map(|issuer| (issuer.place, issuer.value.0.as_str()));
    note_duplicates(issuers, "this issuer is already defined", reading);
}

impl JwtText {
    fn check(self, reading: &mut Reading<'_>) -> Option<Jwt> {
        let Self {
            issuer,
            jwks,
            algorithms,
            leeway,
            caller,
            caller_prefix,
            tenant,
            audiences,
            token_type,
        } = self;
        if let Some(empty) = algorithms.as_given().filter(|list| list.value.is_empty()) {
            let hint = "name those that the issuer uses, or leave the key out";
            reading.problem(empty.head, "without an algorithm no token is accepted", hint);
        }
        let algorithms = match algorithms.given() {
            Some(list) => list.value.into_iter().filter_map(Field::value).collect(),
            None => vec![Algorithm::RS256, Algorithm::ES256],
        };
        if let Some(long) = leeway.as_given().filter(|leeway| leeway.value.0 > LEEWAY_MAX) {
            let hint = "set the clocks, and write at most 60s";
            reading.problem(long.place, "this makes expired tokens last", hint);
        }
        let jwks = jwks.given().and_then(|jwks| jwks.value.check(jwks.head, reading));
        Some(Jwt {
            issuer: issuer.value()?.0,
            jwks: jwks?,
            algorithms,
            leeway: leeway.or(DurationOrZero(Duration::from_secs(30))).0,
            meaning: meaning(caller, caller_prefix, tenant, audiences),
            token_type: token_type.or(TokenType::Any),
        })
    }
}

impl IntrospectionText {
    fn check(self, reading: &mut Reading<'_>) -> Option<Introspection> {
        let Self {
            issuer,
            url,
            client_id,
            client_secret,
            cache,
            timeout,
            rate,
            caller,
            caller_prefix,
            tenant,
            audiences,
        } = self;
        if let (Field::Absent, Some(secret)) = (&client_id, client_secret.as_given()) {
            reading.problem(secret.head, "a secret without a name", "add `client_id`");
        }
        Some(Introspection {
            issuer: issuer.value()?.0,
            url: url.value()?.0,
            client_id: client_id.value(),
            client_secret: client_secret.value(),
            cache: cache.or(DurationOrZero(Duration::from_secs(60))).0,
            timeout: timeout.or(Duration::from_secs(3)),
            rate: rate.or(Rate { count: QUESTIONS, period: Duration::from_secs(1) }),
            meaning: meaning(caller, caller_prefix, tenant, audiences),
        })
    }
}

impl JwksText {
    fn check(self, head: Place, reading: &mut Reading<'_>) -> Option<Jwks> {
        let Self { url, file, refresh, cooldown, timeout } = self;
        match (&url, &file) {
            (Field::Absent, Field::Absent) => {
                reading.problem(head, "nobody knows where the keys are", "add `url:` or `file:`");
            }
            (Field::Given(_), Field::Given(At { head, .. })) => {
                reading.problem(*head, "`url` and `file` are both given", "keep one of them");
            }
            _ => {}
        }
        for often in [&refresh, &cooldown].into_iter().filter_map(Field::as_given) {
            if often.value < REFRESH_MIN {
                reading.problem(
                    often.place,
                    "this asks the issuer all the time",
                    "write 1s or more",
                );
            }
        }
        let source = match (url.value(), file.given()) {
            (Some(IssuerUrl(url)), _) => KeySource::Url(url),
            (None, file) => {
                let file = file?;
                KeySource::File(reading.existing_file(file.place, &file.value))
            }
        };
        Some(Jwks {
            source,
            refresh: refresh.or(Duration::from_secs(300)),
            cooldown: cooldown.or(Duration::from_secs(10)),
            timeout: timeout.or(Duration::from_secs(5)),
        })
    }
}

fn meaning(
    caller: Field<String>,
    caller_prefix: Field<String>,
    tenant: Field<String>,
    audiences: Field<Vec<Field<String>>>,
) -> Meaning {
    Meaning {
        caller: caller.or("sub".to_owned()),
        caller_prefix: caller_prefix.or(String::new()),
        tenant: tenant.value(),
        audiences: audiences.or(Vec::new()).into_iter().filter_map(Field::value).collect(),
    }
}
