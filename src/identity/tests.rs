//! Attacks and proofs, through the whole module: whoever a token names, only its issuer can say so.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, crypto};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::{Audience, Authorities, Credential, Identity, Proof, Unproven};
use crate::config;
use crate::outbound::Outbound;
use crate::telemetry::Metrics;

const ISSUER: &str = "https://idp.example.com";
const ROUTE: &str = "https://mcp.example.com/mcp";
const NOW_S: u64 = 1_800_000_000;

/// Somebody with a key.
struct Signer {
    id: &'static str,
    key: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self { id, key: Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key") }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "use": "sig", "x": x })
    }

    fn head(&self) -> Value {
        json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id })
    }

    fn sign(&self, head: &str, claims: &str) -> String {
        let message = message(head, claims);
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&self.head().to_string(), &claims.to_string())
    }
}

fn message(head: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims))
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "ann", "aud": ROUTE, "exp": NOW_S + 600, "nbf": NOW_S - 10,
        "scope": "read write", "org": "acme",
    })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn settings(identity: &str) -> config::Identity {
    let yaml = format!(
        "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/] }} }}\n\
         routes: [{{ path: /mcp, server: s, public_url: {ROUTE} }}]\nidentity: {identity}\n"
    );
    config::parse(&yaml, "t", &|_| None).unwrap_or_else(|p| panic!("{p}")).identity
}

fn one_issuer(more: &str) -> config::Identity {
    settings(&format!(
        "{{ jwt: [{{ issuer: {ISSUER}, jwks: {{ url: http://127.0.0.1:1/, timeout: 10ms }}, \
         algorithms: [EdDSA, RS256], tenant: org{more} }}] }}"
    ))
}

fn authorities() -> Arc<Authorities> {
    let outbound = Outbound::new(None).expect("a client");
    Arc::new(Authorities::new(outbound, Arc::new(Metrics::new(10, 10))))
}

fn give(identity: &Identity, signers: &[&Signer]) {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    let set = json!({ "keys": keys }).to_string();
    identity.known.issuers[0].take(set.as_bytes()).expect("taken");
}

fn identity(signers: &[&Signer]) -> Identity {
    let identity = Identity::new(&one_issuer(""), &authorities());
    give(&identity, signers);
    identity
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// What is known without asking anybody: the caller's name, or why there is none; `None` if somebody
/// must be asked.
fn known_at(
    identity: &Identity,
    token: &str,
    route: &str,
    now_s: u64,
) -> Option<Result<String, Unproven>> {
    let value = format!("Bearer {token}");
    let credential = Credential { authorization: Some(value.as_bytes()), certificate: None };
    match identity.authenticate(credential, &Audience::new(Some(route)), at(now_s)) {
        Proof::Known(caller) => Some(Ok(caller.id().to_owned())),
        Proof::Refused(unproven) => Some(Err(unproven)),
        Proof::Ask(_) => None,
    }
}

fn known(identity: &Identity, token: &str) -> Option<Result<String, Unproven>> {
    known_at(identity, token, ROUTE, NOW_S)
}

fn refused(identity: &Identity, token: &str, what: &str) {
    assert_eq!(known(identity, token), Some(Err(Unproven::Invalid)), "{what}");
}

fn accepted(identity: &Identity, token: &str, what: &str) {
    assert_eq!(known(identity, token), Some(Ok("ann".to_owned())), "{what}");
}

#[test]
fn a_token_of_the_issuer_proves_its_caller() {
    let signer = Signer::new("a");
    let identity = identity(&[&signer]);
    let token = signer.token(&claims());
    for _ in 0..2 {
        let value = format!("bEaReR  {token} ");
        let credential = Credential { authorization: Some(value.as_bytes()), certificate: None };
        let audience = Audience::new(Some(ROUTE));
        let Proof::Known(caller) = identity.authenticate(credential, &audience, at(NOW_S)) else {
            panic!("a proof")
        };
        assert_eq!((caller.id(), caller.tenant()), ("ann", Some("acme")));
        assert_eq!(caller.scopes(), ["read", "write"]);
        assert_eq!(caller.issuer(), Some(ISSUER));
        assert_eq!(caller.claims()["org"], "acme");
    }
    for good in
        [with("aud", json!(["https://x", "HTTPS://MCP.example.com:443/mcp"])), without("nbf")]
    {
        accepted(&identity, &signer.token(&good), &good.to_string());
    }
}

#[test]
fn claims_that_do_not_hold_prove_nobody() {
    let signer = Signer::new("a");
    let identity = identity(&[&signer]);
    let bad = [
        with("aud", "https://mcp.example.com/other"),
        with("aud", "https://mcp.example.com"),
        with("aud", json!([])),
        with("aud", json!(null)),
        without("aud"),
        with("exp", NOW_S - 31),
        with("exp", (NOW_S + 600).to_string()),
        with("exp", json!(null)),
        with("exp", -1),
        without("exp"),
        with("nbf", NOW_S + 31),
        with("nbf", "soon"),
        without("sub"),
        with("sub", json!(["ann"])),
        with("sub", ""),
        with("org", 7),
        with("scope", 7),
        with("iss", "https://idp.example.com/"),
        with("iss", "https://evil.example.com"),
        with("iss", json!([ISSUER])),
        without("iss"),
    ];
    for claims in bad {
        refused(&identity, &signer.token(&claims), &claims.to_string());
    }
    // The leeway is 30 s.
    accepted(&identity, &signer.token(&with("exp", NOW_S - 29)), "a slow clock");
    accepted(&identity, &signer.token(&with("nbf", NOW_S + 30)), "a fast clock");
    let twice = claims().to_string().replacen("\"sub\"", "\"sub\":\"bob\",\"sub\"", 1);
    refused(&identity, &signer.sign(&signer.head().to_string(), &twice), "sub twice");
    let escaped = claims().to_string().replacen("\"sub\"", "\"\\u0073ub\":\"bob\",\"sub\"", 1);
    refused(&identity, &signer.sign(&signer.head().to_string(), &escaped), "sub twice, escaped");
}

#[test]
fn the_head_of_a_token_chooses_nothing() {
    let (signer, evil) = (Signer::new("a"), Signer::new("a"));
    let identity = identity(&[&signer]);
    let claims = claims().to_string();
    let head = |name: &str, value: Value| {
        let mut head = signer.head();
        head[name] = value;
        head.to_string()
    };
    let bad_heads = [
        head("alg", json!("none")),
        head("alg", json!("NONE")),
        head("alg", json!("eddsa")),
        head("alg", json!("ES256")),
        head("alg", json!("RS256")),
        head("alg", json!(null)),
        head("alg", json!(["EdDSA"])),
        head("crit", json!(["exp"])),
        head("crit", json!([])),
        head("b64", json!(false)),
        head("kid", json!(7)),
        head("kid", json!(null)),
        head("typ", json!("logout+jwt")),
        head("typ", json!("dpop+jwt")),
        head("typ", json!(1)),
        signer.head().to_string().replacen("\"alg\"", "\"alg\":\"none\",\"alg\"", 1),
        r#"{"kid":"a"}"#.to_owned(),
    ];
    for head in bad_heads {
        refused(&identity, &signer.sign(&head, &claims), &head);
    }
    // Keys that the token brings or points to are not looked at, whoever signed it.
    for (name, value) in [
        ("jwk", evil.jwk()),
        ("jku", json!("https://evil.example.com/keys")),
        ("x5u", json!("https://evil.example.com/chain")),
        ("x5c", json!(["AAAA"])),
    ] {
        refused(&identity, &evil.sign(&head(name, value.clone()), &claims), name);
        accepted(&identity, &signer.sign(&head(name, value), &claims), name);
    }
    for kind in ["at+jwt", "application/at+jwt", "AT+JWT", "jwt"] {
        accepted(&identity, &signer.sign(&head("typ", json!(kind)), &claims), kind);
    }
}

#[test]
fn only_the_issuers_key_signs() {
    let (signer, evil) = (Signer::new("a"), Signer::new("a"));
    let identity = identity(&[&signer]);
    let (claims_text, good) = (claims().to_string(), signer.token(&claims()));
    refused(&identity, &evil.token(&claims()), "another key of that name");
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let other = URL_SAFE_NO_PAD.encode(with("sub", "bob").to_string());
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    for bad in [
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        format!("{head}.{other}.{signature}"),
        format!("{head}.{body}.{zeros}"),
        format!("{head}.{body}.{signature}="),
        format!("{head}.{body}.{signature}.{signature}"),
        format!(".{body}.{signature}"),
        format!("{head}..{signature}"),
        format!("{body}.{head}.{signature}"),
        good[..good.len() - 1].to_owned(),
        format!("{good}A"),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ] {
        refused(&identity, &bad, &bad);
    }
    // The public key as the secret of an HMAC, in every form that an attacker may guess.
    let public = signer.key.public_key().as_ref().to_vec();
    for secret in
        [public, signer.jwk()["x"].to_string().into_bytes(), signer.jwk().to_string().into()]
    {
        for (name, algorithm) in
            [("HS256", jsonwebtoken::Algorithm::HS256), ("HS512", jsonwebtoken::Algorithm::HS512)]
        {
            let message = message(&json!({ "alg": name, "kid": "a" }).to_string(), &claims_text);
            let key = EncodingKey::from_secret(&secret);
            let signature = crypto::sign(message.as_bytes(), &key, algorithm).expect("signed");
            refused(&identity, &format!("{message}.{signature}"), name);
        }
    }
    accepted(&identity, &good, "the gateway is unharmed");
}

#[test]
fn the_name_of_a_key_is_only_compared() {
    let (a, b) = (Signer::new("a"), Signer::new("b"));
    let identity = identity(&[&a, &b]);
    accepted(&identity, &a.token(&claims()), "a");
    accepted(&identity, &b.token(&claims()), "b");
    let claims = claims().to_string();
    refused(&identity, &a.sign(r#"{"alg":"EdDSA"}"#, &claims), "no name where there is a choice");
    let mixed = r#"{"alg":"EdDSA","kid":"b"}"#;
    refused(&identity, &a.sign(mixed, &claims), "the name of the other key");
    // Unknown names are asked about, never followed.
    for name in
        ["../../dev/null", "a' OR '1'='1", "a\\u0000", "", "https://evil.example.com/a", "A"]
    {
        let head = format!("{{\"alg\":\"EdDSA\",\"kid\":\"{name}\"}}");
        assert_eq!(known(&identity, &a.sign(&head, &claims)), None, "{name}");
    }
}

#[test]
fn huge_and_broken_texts_are_refused_before_any_work() {
    let signer = Signer::new("a");
    let identity = identity(&[&signer]);
    refused(&identity, &signer.token(&with("pad", "x".repeat(7000))), "a token beyond 8 KiB");
    accepted(&identity, &signer.token(&with("pad", "x".repeat(5000))), "a large token");
    let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let nested = claims().to_string().replacen('{', &format!("{{\"deep\":{deep},"), 1);
    refused(&identity, &signer.sign(&signer.head().to_string(), &nested), "a deep token");
    for bad in ["a b", "\u{7f}", "ä", "a,b", ".", "....", "eyJ", "eyJ.eyJ.eyJ"] {
        refused(&identity, bad, bad);
    }
}

#[test]
fn a_signature_is_checked_once_and_all_else_each_time() {
    let signer = Signer::new("a");
    let identity = identity(&[&signer]);
    let token = signer.token(&with("exp", NOW_S + 100));
    accepted(&identity, &token, "first");
    let cached = |now_s| {
        let issuers = &identity.known.issuers;
        identity.authorities.verified.find(token.as_bytes(), issuers, now_s).is_some()
    };
    assert!(cached(NOW_S));
    let elsewhere = known_at(&identity, &token, "https://mcp.example.com/other", NOW_S);
    assert_eq!(elsewhere, Some(Err(Unproven::Invalid)), "meant for another route");
    assert!(cached(NOW_S + 129) && !cached(NOW_S + 130), "no longer than the token, with leeway");
    let late = known_at(&identity, &token, ROUTE, NOW_S + 130);
    assert_eq!(late, Some(Err(Unproven::Invalid)));
    let long = signer.token(&with("exp", NOW_S + 100_000));
    accepted(&identity, &long, "long");
    let found = |now_s| {
        let issuers = &identity.known.issuers;
        identity.authorities.verified.find(long.as_bytes(), issuers, now_s).is_some()
    };
    assert!(found(NOW_S + 299) && !found(NOW_S + 300), "and no longer than five minutes");
    // A text that ends alike is another token.
    let parts: Vec<&str> = token.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(with("sub", "bob").to_string());
    refused(&identity, &format!("{}.{other}.{}", parts[0], parts[2]), "another body");
}

#[test]
fn a_known_token_costs_no_allocation() {
    let signer = Signer::new("a");
    let identity = identity(&[&signer]);
    let value = format!("Bearer {}", signer.token(&with("pad", "x".repeat(500))));
    let audience = Audience::new(Some(ROUTE));
    let credential = Credential { authorization: Some(value.as_bytes()), certificate: None };
    let prove =
        || matches!(identity.authenticate(credential, &audience, at(NOW_S)), Proof::Known(_));
    assert!(prove());
    let allocated = allocation_counter::measure(|| assert!(prove())).count_total;
    assert_eq!(allocated, 0);
}

#[test]
fn a_key_that_is_gone_is_honoured_no_more() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let identity = identity(&[&old]);
    let (first, second) = (old.token(&claims()), new.token(&claims()));
    accepted(&identity, &first, "the old key");
    give(&identity, &[&old, &new]);
    accepted(&identity, &first, "both keys");
    accepted(&identity, &second, "both keys");
    give(&identity, &[&new]);
    accepted(&identity, &second, "the new key");
    assert_eq!(known(&identity, &first), None, "its key must be asked for");
    for broken in ["", "{}", r#"{"keys":[]}"#, "<html>", r#"{"keys":[{"kty":"oct","k":"AA"}]}"#] {
        identity.known.issuers[0].take(broken.as_bytes()).expect_err(broken);
        accepted(&identity, &second, broken);
    }
}

#[test]
fn what_is_known_outlives_a_configuration_that_does_not_change_it() {
    let signer = Signer::new("a");
    let authorities = authorities();
    let before = Identity::new(&one_issuer(""), &authorities);
    before.install();
    give(&before, &[&signer]);
    let token = signer.token(&claims());
    accepted(&before, &token, "before");
    let same = Identity::new(&one_issuer(""), &authorities);
    accepted(&same, &token, "the same");
    let other = Identity::new(&one_issuer(", leeway: 1s"), &authorities);
    assert_eq!(known(&other, &token), None, "other rules: nothing is known");
    let none = Identity::new(&settings("{ api_keys: [] }"), &authorities);
    refused(&none, &token, "the issuer is gone");
}

#[tokio::test]
async fn without_keys_nobody_knows() {
    let signer = Signer::new("a");
    let identity = Identity::new(&one_issuer(""), &authorities());
    let value = format!("Bearer {}", signer.token(&claims()));
    let credential = Credential { authorization: Some(value.as_bytes()), certificate: None };
    let audience = Audience::new(Some(ROUTE));
    let Proof::Ask(pending) = identity.authenticate(credential, &audience, at(NOW_S)) else {
        panic!("a question")
    };
    // Nobody fetches here: the wait ends by itself.
    assert_eq!(pending.answer().await.map(drop), Err(Unproven::Unavailable));
}

#[tokio::test]
async fn unknown_keys_are_asked_for_once_in_a_while() {
    let signer = Signer::new("a");
    let identity = identity(&[&signer]);
    let claims = claims().to_string();
    let random = |n: u32| signer.sign(&format!(r#"{{"alg":"EdDSA","kid":"k{n}"}}"#), &claims);
    assert_eq!(known(&identity, &random(0)), None);
    let authorities = &identity.authorities;
    identity.known.issuers[0].refresh(&authorities.outbound, &authorities.metrics).await;
    for n in 1..100 {
        refused(&identity, &random(n), "keys were just asked for");
    }
    accepted(&identity, &signer.sign(&signer.head().to_string(), &claims), "the key is kept");
}

#[test]
fn access_tokens_only_where_they_are_asked_for() {
    let signer = Signer::new("a");
    let identity = Identity::new(&one_issuer(", token_type: at+jwt"), &authorities());
    give(&identity, &[&signer]);
    refused(&identity, &signer.token(&claims()), "an identity token");
    let head = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": "a" }).to_string();
    accepted(&identity, &signer.sign(&head, &claims().to_string()), "an access token");
}

#[test]
fn an_issuer_may_have_an_audience_of_its_own() {
    let signer = Signer::new("a");
    let more = ", audiences: [toolgate], caller: org, caller_prefix: 'idp:'";
    let identity = Identity::new(&one_issuer(more), &authorities());
    give(&identity, &[&signer]);
    let token = signer.token(&with("aud", json!(["x", "toolgate"])));
    for route in [ROUTE, "https://anywhere/mcp"] {
        let found = known_at(&identity, &token, route, NOW_S);
        assert_eq!(found, Some(Ok("idp:acme".to_owned())), "{route}");
    }
}

fn api_keys(anonymous: &str) -> Identity {
    let digest = |key: &str| -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (ann, bob) = (digest("secret-a"), digest("secret-b"));
    let identity = format!(
        "{{ anonymous: {anonymous}, api_keys: [{{ caller: ann, sha256: {ann} }}, \
         {{ caller: bob, sha256: {bob} }}] }}"
    );
    Identity::new(&settings(&identity), &authorities())
}

fn check(identity: &Identity, value: Option<&str>, expected: Result<&str, Unproven>) {
    let authorization = value.map(str::as_bytes);
    let audience = Audience::default();
    let credential = Credential { authorization, certificate: None };
    let found = match identity.authenticate(credential, &audience, at(NOW_S)) {
        Proof::Known(caller) => Ok(caller.id().to_owned()),
        Proof::Refused(unproven) => Err(unproven),
        Proof::Ask(_) => panic!("nobody to ask"),
    };
    assert_eq!(found.as_deref().map_err(|unproven| *unproven), expected, "{value:?}");
}

#[test]
fn a_key_proves_its_caller_and_nothing_else_does() {
    let strict = api_keys("deny");
    check(&strict, Some("Bearer secret-a"), Ok("ann"));
    check(&strict, Some("bearer  secret-b "), Ok("bob"));
    for bad in ["Bearer secret-c", "Bearer ", "Basic secret-a", "secret-a", "Bearer", ""] {
        check(&strict, Some(bad), Err(Unproven::Invalid));
    }
    check(&strict, None, Err(Unproven::Missing));
}

#[test]
fn a_bad_proof_is_not_anonymous() {
    let open = api_keys("allow");
    check(&open, None, Ok("anonymous"));
    check(&open, Some("Bearer secret-c"), Err(Unproven::Invalid));
}
