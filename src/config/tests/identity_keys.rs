//! Every key of tokens and certificates does what it says; the rest is in `keys.rs`.

use super::keys::{Row, seconds, tls};
use crate::config::{
    Algorithm, Anonymous, CertificateName, ClientCertificate, Introspection, Jwt, KeySource,
    Settings, TokenType,
};

fn jwt(settings: &Settings) -> &Jwt {
    &settings.identity.jwt[0]
}

fn asked(settings: &Settings) -> &Introspection {
    &settings.identity.introspection[0]
}

pub(super) const IDENTITY: &[Row] = &[
    (
        "listeners[].tls.client_ca",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificate: tls.crt, key: tls.key, client_ca: tls.crt } }]\n",
        |s| {
            tls(s).clients.as_ref().is_some_and(|c| {
                c.ca.path().ends_with("tls.crt") && c.certificate == ClientCertificate::Required
            })
        },
    ),
    (
        "listeners[].tls.client_crl",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificate: tls.crt, key: tls.key, client_ca: tls.crt, client_crl: tls.key } }]\n",
        |s| {
            tls(s)
                .clients
                .as_ref()
                .is_some_and(|c| c.crl.as_ref().is_some_and(|crl| crl.path().is_file()))
        },
    ),
    (
        "listeners[].tls.client_certificate",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificate: tls.crt, key: tls.key, client_ca: tls.crt, client_certificate: optional } }]\n",
        |s| tls(s).clients.as_ref().is_some_and(|c| c.certificate == ClientCertificate::Optional),
    ),
    (
        "identity.jwt",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k } }] }\n",
        |s| s.identity.anonymous == Anonymous::Deny && s.identity.jwt.len() == 1,
    ),
    (
        "identity.jwt[].issuer",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k } }] }\n",
        |s| jwt(s).issuer == "https://i",
    ),
    (
        "identity.jwt[].jwks",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k } }] }\n",
        |s| jwt(s).jwks.refresh == seconds(300),
    ),
    (
        "identity.jwt[].jwks.url",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: HTTPS://I/k } }] }\n",
        |s| jwt(s).jwks.source == KeySource::Url("https://i/k".to_owned()),
    ),
    (
        "identity.jwt[].jwks.file",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { file: tls.crt } }] }\n",
        |s| matches!(&jwt(s).jwks.source, KeySource::File(file) if file.is_file()),
    ),
    (
        "identity.jwt[].jwks.refresh",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k, refresh: 1m } }] }\n",
        |s| jwt(s).jwks.refresh == seconds(60),
    ),
    (
        "identity.jwt[].jwks.cooldown",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k, cooldown: 1s } }] }\n",
        |s| jwt(s).jwks.cooldown == seconds(1),
    ),
    (
        "identity.jwt[].jwks.timeout",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k, timeout: 1s } }] }\n",
        |s| jwt(s).jwks.timeout == seconds(1),
    ),
    (
        "identity.jwt[].algorithms",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, algorithms: [EdDSA] }] }\n",
        |s| jwt(s).algorithms == [Algorithm::EdDSA],
    ),
    (
        "identity.jwt[].leeway",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, leeway: 0s }] }\n",
        |s| jwt(s).leeway == seconds(0),
    ),
    (
        "identity.jwt[].caller",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, caller: email }] }\n",
        |s| jwt(s).meaning.caller == "email",
    ),
    (
        "identity.jwt[].caller_prefix",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, caller_prefix: 'i:' }] }\n",
        |s| jwt(s).meaning.caller_prefix == "i:",
    ),
    (
        "identity.jwt[].tenant",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, tenant: org }] }\n",
        |s| jwt(s).meaning.tenant.as_deref() == Some("org"),
    ),
    (
        "identity.jwt[].audiences",
        "identity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, audiences: [a] }] }\n",
        |s| jwt(s).meaning.audiences == ["a"],
    ),
    (
        "identity.jwt[].token_type",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { jwt: [{ issuer: https://i, jwks: { url: https://i/k }, token_type: at+jwt }] }\n",
        |s| jwt(s).token_type == TokenType::AccessToken,
    ),
    (
        "identity.introspection",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q }] }\n",
        |s| s.identity.anonymous == Anonymous::Deny && s.identity.introspection.len() == 1,
    ),
    (
        "identity.introspection[].issuer",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q }] }\n",
        |s| asked(s).issuer == "https://i",
    ),
    (
        "identity.introspection[].url",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q }] }\n",
        |s| asked(s).url == "https://i/q",
    ),
    (
        "identity.introspection[].client_id",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, client_id: gw }] }\n",
        |s| asked(s).client_id.as_deref() == Some("gw"),
    ),
    (
        "identity.introspection[].client_secret",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, client_id: gw, client_secret: '${SHORT}' }] }\n",
        |s| asked(s).client_secret.as_ref().is_some_and(|secret| secret.expose() == "hunter2"),
    ),
    (
        "identity.introspection[].cache",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, cache: 0s }] }\n",
        |s| asked(s).cache == seconds(0),
    ),
    (
        "identity.introspection[].timeout",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, timeout: 1s }] }\n",
        |s| asked(s).timeout == seconds(1),
    ),
    (
        "identity.introspection[].rate",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, rate: 7/m }] }\n",
        |s| asked(s).rate.count.get() == 7 && asked(s).rate.period == seconds(60),
    ),
    (
        "identity.introspection[].caller",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, caller: username }] }\n",
        |s| asked(s).meaning.caller == "username",
    ),
    (
        "identity.introspection[].caller_prefix",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, caller_prefix: 'i:' }] }\n",
        |s| asked(s).meaning.caller_prefix == "i:",
    ),
    (
        "identity.introspection[].tenant",
        "routes: [{ path: /mcp, server: everything, public_url: https://h/mcp }]\nidentity: { introspection: [{ issuer: https://i, url: https://i/q, tenant: org }] }\n",
        |s| asked(s).meaning.tenant.as_deref() == Some("org"),
    ),
    (
        "identity.introspection[].audiences",
        "identity: { introspection: [{ issuer: https://i, url: https://i/q, audiences: [a] }] }\n",
        |s| asked(s).meaning.audiences == ["a"],
    ),
    (
        "identity.certificates",
        "listeners: [{ address: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8], tls: { certificate: tls.crt, key: tls.key, client_ca: tls.crt } }]\nidentity: { certificates: {  } }\n",
        |s| s.identity.anonymous == Anonymous::Deny && s.identity.certificates.is_some(),
    ),
    (
        "identity.certificates.caller",
        "listeners: [{ address: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8], tls: { certificate: tls.crt, key: tls.key, client_ca: tls.crt } }]\nidentity: { certificates: { caller: common_name } }\n",
        |s| {
            s.identity
                .certificates
                .as_ref()
                .is_some_and(|c| c.caller == CertificateName::CommonName)
        },
    ),
    (
        "identity.certificates.header",
        "listeners: [{ address: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8], tls: { certificate: tls.crt, key: tls.key, client_ca: tls.crt } }]\nidentity: { certificates: { header: X-Client } }\n",
        |s| s.identity.certificates.as_ref().and_then(|c| c.header.as_deref()) == Some("x-client"),
    ),
];
