//! Tests of the whole engine: what is allowed, shown and refused, and why.

mod by_the_book;
mod conditions;
mod rows;

use serde_json::{Map, Value, json};

use super::{Asked, Decision, Policy, Subject};
use crate::config::{self, Settings};
use crate::identity::{Caller, Method, Proven};
use crate::mcp::Annotations;

const SECTIONS: &str = "listen: 127.0.0.1:8080
servers:
  files: { endpoints: [http://127.0.0.1:1/] }
  mail: { endpoints: [http://127.0.0.1:2/] }
routes: [{ path: /files, server: files }, { path: /mail, server: mail }]
";

/// Callers are named freely here, so the keys below are those of all tests.
const KEYS: &str = "identity:
  api_keys:
    - { caller: alice, tenant: acme, sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa }
    - { caller: root, sha256: cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc }
    - { caller: bob, tenant: other, sha256: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb }
";

pub(super) fn settings(policy: &str) -> Settings {
    let text = format!("{SECTIONS}{KEYS}policy:\n{policy}\n");
    config::parse(&text, "t", &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

pub(super) fn policy(text: &str) -> Policy {
    let settings = settings(text);
    let servers = settings.servers.iter().map(|server| server.name.as_str());
    Policy::new(&settings.policy, servers).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// A caller with a token: `id`, then words such as `tenant=acme` and scopes.
pub(super) fn caller(words: &str) -> Caller {
    let mut words = words.split(' ');
    let id = words.next().unwrap_or_default().to_owned();
    if id == "anonymous" {
        return Caller::anonymous();
    }
    let (mut tenant, mut issuer, mut scopes, mut claims) = (None, None, Vec::new(), Map::new());
    for word in words {
        match word.split_once('=') {
            Some(("tenant", name)) => tenant = Some(name.to_owned()),
            Some(("issuer", url)) => issuer = Some(url.to_owned()),
            Some((claim, value)) => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
                claims.insert(claim.to_owned(), value);
            }
            None => scopes.push(word.to_owned()),
        }
    }
    let method = if issuer.is_some() { Method::Jwt } else { Method::ApiKey };
    Caller::new(Proven { id, issuer, tenant, scopes, claims, method })
}

/// A tool call, or with a subject such as `prompt:x`, `resource:file:///x`, `method:ping` another message.
pub(super) fn asked<'a>(caller: &'a Caller, server: &'a str, what: &'a str) -> Asked<'a> {
    let (method, subject) = match what.split_once(':') {
        Some(("prompt", name)) => ("prompts/get", Subject::Prompt(name)),
        Some(("resource", uri)) => ("resources/read", Subject::Resource(uri)),
        Some(("template", uri)) => ("completion/complete", Subject::Template(uri)),
        Some(("method", method)) => (method, Subject::Method),
        _ => ("tools/call", Subject::Tool(what)),
    };
    Asked { caller, server, method, subject, annotations: None, arguments: None, client: None }
}

/// A decision in words: effect, rule and reason.
pub(super) fn told(decision: &Decision<'_>) -> String {
    let effect = match &decision.effect {
        super::Effect::Allowed => "allowed".to_owned(),
        super::Effect::Hidden => "hidden".to_owned(),
        super::Effect::Forbidden => "forbidden".to_owned(),
        super::Effect::ScopeMissing(scopes) => format!("needs {}", scopes.join("+")),
    };
    let rule = decision.rule.map_or("-", |rule| rule);
    let mut told = format!("{effect} {rule} {}", decision.reason.as_str());
    if let Some(shadow) = &decision.shadow {
        let rule = shadow.rule.map_or("-", |rule| rule);
        told += &format!(" | {} {rule} {}", shadow.outcome.as_str(), shadow.reason.as_str());
    }
    told
}

pub(super) fn annotations(json: Value) -> Annotations {
    Annotations::of_json(&json)
}
