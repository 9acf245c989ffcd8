//! A stand-in identity provider over real HTTP: it signs tokens, serves its keys and answers about tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::upstream::{Step, Upstream, plain};

/// The route for which its tokens are.
pub(crate) const PUBLIC_URL: &str = "https://mcp.example.com/mcp";

/// An identity provider.
pub(crate) struct Idp {
    pub(crate) http: Upstream,
    keys: Arc<Mutex<Answer>>,
    answer: Arc<Mutex<Answer>>,
}

/// What one of its pages answers with.
type Answer = Box<dyn Fn() -> Vec<Step> + Send>;

/// One of its keys.
pub(crate) struct Key {
    name: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    pub(crate) fn new(name: &'static str) -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).expect("a key");
        Self { name, pair }
    }

    fn public(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "kty": "EC", "crv": "P-256", "kid": self.name, "x": x, "y": y })
    }

    /// A token that this key has signed.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let head = json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.name });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&head), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A set of keys as it is served.
pub(crate) fn set(keys: &[&Key]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// The seconds since 1970, and some more.
pub(crate) fn in_seconds(more: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs() + more
}

impl Idp {
    /// A provider whose keys are these.
    pub(crate) async fn start(keys: &[&Key]) -> Self {
        let (keys, answer) = (json_page(set(keys)), json_page(r#"{"active":false}"#.to_owned()));
        let (keys, answer) = (Arc::new(Mutex::new(keys)), Arc::new(Mutex::new(answer)));
        let (own_keys, own_answer) = (Arc::clone(&keys), Arc::clone(&answer));
        let http = Upstream::start(move |request| match request.path.as_str() {
            "/keys" => own_keys.lock()(),
            "/introspect" => own_answer.lock()(),
            _ => vec![plain(404, "", b"")],
        })
        .await;
        Self { http, keys, answer }
    }

    /// From now on serves this instead of its keys.
    pub(crate) fn serve(&self, page: impl Fn() -> Vec<Step> + Send + 'static) {
        *self.keys.lock() = Box::new(page);
    }

    /// From now on serves these keys.
    pub(crate) fn rotate(&self, keys: &[&Key]) {
        *self.keys.lock() = json_page(set(keys));
    }

    /// From now on says this about every token.
    pub(crate) fn say(&self, page: impl Fn() -> Vec<Step> + Send + 'static) {
        *self.answer.lock() = Box::new(page);
    }

    /// What it is called in tokens.
    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.http.address)
    }

    /// What a good token of it says.
    pub(crate) fn claims(&self, caller: &str) -> Value {
        json!({ "iss": self.issuer(), "sub": caller, "aud": PUBLIC_URL, "exp": in_seconds(600) })
    }

    /// The part of `identity` that trusts its signatures.
    pub(crate) fn jwt(&self, more: &str) -> String {
        let issuer = self.issuer();
        format!("jwt: [{{ issuer: {issuer}, jwks: {{ url: {issuer}/keys{more} }} }}]")
    }

    /// The part of `identity` that asks it.
    pub(crate) fn introspection(&self, more: &str) -> String {
        let issuer = self.issuer();
        format!("introspection: [{{ issuer: {issuer}, url: {issuer}/introspect{more} }}]")
    }
}

fn json_page(body: String) -> Answer {
    Box::new(move || vec![json_answer(&body)])
}

/// An answer of JSON.
pub(crate) fn json_answer(body: &str) -> Step {
    plain(200, "content-type: application/json\r\n", body.as_bytes())
}
