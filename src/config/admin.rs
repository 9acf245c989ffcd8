//! The listeners for operators and probes: `admin` and `health`.

use std::fmt;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::links::note_duplicates;
use super::reading::{Fault, Reading};
use super::scalars::{Digest, check_name};
use super::shape::{At, Field, Scalar, shape};

/// The listener for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address to bind; loopback where there is no token.
    pub listen: SocketAddr,
    /// What proves an operator, all different; without one only probes and metrics are served.
    pub tokens: Vec<Token>,
}

/// One token of the admin listener, known by its digest only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What its holder may do.
    pub role: Role,
    /// The SHA-256 digest of the token.
    pub sha256: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, sha256: _ } = self;
        f.debug_struct("Token").field("role", role).finish_non_exhaustive()
    }
}

/// What the holder of a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// See everything.
    Read,
    /// See everything, and register endpoints of this server, which need not be defined yet.
    Register(String),
    /// See and change everything.
    Operate,
}

shape! {
    /// The listener for operators.
    AdminText {
        /// Its address; without tokens loopback only.
        required listen: SocketAddr,
        /// What proves an operator; without tokens only probes and metrics are served.
        optional tokens: Vec<Field<TokenText>>,
    }
}

shape! {
    /// One token of the admin listener.
    TokenText {
        /// What its holder may do: read, register:SERVER or operate.
        required role: Role,
        /// The SHA-256 digest of the token in 64 hexadecimal digits.
        required sha256: Digest,
    }
}

shape! {
    /// The listener for probes and metrics: /live, /ready and /metrics, without a token.
    HealthListenerText {
        /// Its address.
        required listen: SocketAddr,
    }
}

impl Scalar for Role {
    const NAME: &'static str = "a role";

    fn parse(text: &str) -> Result<Self, Fault> {
        match (text, text.strip_prefix("register:")) {
            ("read", _) => Ok(Self::Read),
            ("operate", _) => Ok(Self::Operate),
            (_, Some(server)) => check_name(server).map(|()| Self::Register(server.to_owned())),
            _ => Err(Fault::new("this is not a role", "write read, register:SERVER or operate")),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^(read|register:.+|operate|.*\$\{.*)$" })
    }
}

/// Whose endpoints may be registered while the gateway runs.
pub(super) enum Registration {
    /// The holders of these roles may; nobody, without one.
    By(Vec<Role>),
    /// Some role has a problem, so nobody knows.
    Unknown,
}

impl Registration {
    pub(super) fn new(admin: &Field<AdminText>) -> Self {
        let tokens = match admin {
            Field::Absent => return Self::By(Vec::new()),
            Field::Faulty => return Self::Unknown,
            Field::Given(admin) => &admin.value.tokens,
        };
        let role =
            |token: &Field<TokenText>| Some(token.as_given()?.value.role.as_given()?.value.clone());
        let roles = match tokens {
            Field::Absent => Some(Vec::new()),
            Field::Faulty => None,
            Field::Given(tokens) => tokens.value.iter().map(role).collect(),
        };
        roles.map_or(Self::Unknown, Self::By)
    }

    /// Whether the server may get endpoints that the configuration does not know.
    pub(super) fn may_add_to(&self, server: &str) -> bool {
        match self {
            Self::Unknown => true,
            Self::By(roles) => roles.iter().any(|role| match role {
                Role::Operate => true,
                Role::Register(name) => name == server,
                Role::Read => false,
            }),
        }
    }
}

impl AdminText {
    /// The listener, and its address with the place.
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Option<(At<SocketAddr>, Admin)> {
        let Self { listen, tokens } = self;
        let asks_for_none = match &tokens {
            Field::Absent => true,
            Field::Given(tokens) => tokens.value.is_empty(),
            Field::Faulty => false,
        };
        let tokens = check_tokens(tokens.or(Vec::new()), reading);
        let listen = listen.given()?;
        if asks_for_none && !listen.value.ip().is_loopback() {
            let hint = format!("write 127.0.0.1:{}, or add `tokens`", listen.value.port());
            reading.problem(
                listen.place,
                "the admin listener asks for no token, so it must be on loopback",
                hint,
            );
        }
        let admin = Admin { listen: listen.value, tokens };
        Some((listen, admin))
    }
}

fn check_tokens(texts: Vec<Field<TokenText>>, reading: &mut Reading<'_>) -> Vec<Token> {
    let texts: Vec<TokenText> = texts.into_iter().filter_map(Field::value).collect();
    let digests: Vec<_> = texts
        .iter()
        .filter_map(|text| text.sha256.as_given())
        .map(|digest| (digest.place, digest.value.to_string()))
        .collect();
    let digests = digests.iter().map(|(place, digest)| (*place, digest.as_str()));
    note_duplicates(digests, "this token is already defined", reading);
    texts.into_iter().filter_map(TokenText::check).collect()
}

impl TokenText {
    fn check(self) -> Option<Token> {
        let Self { role, sha256 } = self;
        Some(Token { role: role.value()?, sha256: sha256.value()?.0 })
    }
}

impl HealthListenerText {
    pub(super) fn check(self) -> Option<At<SocketAddr>> {
        let Self { listen } = self;
        Field::given(listen)
    }
}
