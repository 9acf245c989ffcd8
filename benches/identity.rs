//! What it costs to know a caller by a signed token that was seen before, and the first time.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;
use toolgate::config;
use toolgate::identity::{Audience, Authorities, Credential, Identity, Proof};
use toolgate::outbound::Outbound;
use toolgate::telemetry::Metrics;

const ROUTE: &str = "https://mcp.example.com/mcp";

/// A key in its set, and tokens of about 1 KiB that it has signed.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        Self(EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).expect("a key"))
    }

    fn set(&self) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": x, "y": y }] }).to_string()
    }

    fn authorization(&self, number: usize, now_s: u64) -> String {
        let claims = json!({
            "iss": "https://idp", "sub": "ann", "aud": ROUTE, "exp": now_s + 3600, "jti": number,
            "scope": "read write", "groups": vec!["a-group-of-people"; 28],
        });
        let encode = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", encode(&json!({ "alg": "ES256" })), encode(&claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
        format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn identity(issuer: &Issuer) -> Identity {
    let file = std::env::temp_dir().join(format!("toolgate-bench-{}.json", std::process::id()));
    std::fs::write(&file, issuer.set()).expect("a file");
    let yaml = format!(
        "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/] }} }}\n\
         routes: [{{ path: /mcp, server: s, public_url: {ROUTE} }}]\n\
         identity: {{ jwt: [{{ issuer: https://idp, jwks: {{ file: {} }} }}] }}\n",
        file.display()
    );
    let settings = config::parse(&yaml, "bench", &|_| None).expect("settings");
    let outbound = Outbound::new(None).expect("a client");
    let authorities = Arc::new(Authorities::new(outbound, Arc::new(Metrics::new(10, 10))));
    let identity = Identity::new(&settings.identity, &authorities);
    identity.install();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(authorities.fetch());
    std::fs::remove_file(file).expect("removed");
    identity
}

fn prove(identity: &Identity, authorization: &str, audience: &Audience, now: SystemTime) {
    let authorization = Some(authorization.as_bytes());
    let credential = Credential { authorization, certificate: None };
    let proof = identity.authenticate(black_box(credential), audience, now);
    assert!(matches!(proof, Proof::Known(_)));
}

fn tokens(c: &mut Criterion) {
    let issuer = Issuer::new();
    let (identity, audience) = (identity(&issuer), Audience::new(Some(ROUTE)));
    let now = SystemTime::now();
    let now_s = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let one = issuer.authorization(0, now_s);
    assert!(one.len() > 1000 && one.len() < 1100, "{} bytes", one.len());
    c.bench_function("prove the caller by a JWT that is known", |b| {
        b.iter(|| prove(&identity, &one, &audience, now));
    });
    let mut number = 0;
    c.bench_function("prove the caller by a JWT that is new", |b| {
        b.iter_batched(
            || {
                number += 1;
                issuer.authorization(number, now_s)
            },
            |token| prove(&identity, &token, &audience, now),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, tokens);
criterion_main!(benches);
