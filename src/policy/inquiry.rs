//! A question from an operator: `toolgate explain`, and what it sends to a running gateway.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::asked::{Asked, Subject};
use super::authorize::Policy;
use super::explain::Explanation;
use crate::config::{self, Settings, nearest};
use crate::identity::{Caller, Method, Proven};
use crate::mcp::Annotations;

/// Who would do what, as an operator writes it. Exactly one of `tool`, `prompt`, `resource` and
/// `method` is given.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inquiry {
    /// The caller's id; `anonymous` is who proved nothing.
    pub caller: String,
    /// Its tenant; where only the id is given, what its API key says.
    pub tenant: Option<String>,
    /// Its scopes; where only the id is given, what its API key says.
    pub scopes: Option<Vec<String>>,
    /// What its token says.
    pub claims: Option<Map<String, Value>>,
    /// Who vouches for it.
    pub issuer: Option<String>,
    /// How it proved itself; by default as what is given suggests.
    pub proof: Option<String>,
    /// The server; where it is not given, the only one there is, or the one that `tool` begins with.
    pub server: Option<String>,
    /// A tool, by its own name.
    pub tool: Option<String>,
    /// A prompt, by its own name.
    pub prompt: Option<String>,
    /// A resource, by its URI.
    pub resource: Option<String>,
    /// A method that names none of these.
    pub method: Option<String>,
    /// The arguments, as they would be sent.
    pub arguments: Option<Box<RawValue>>,
    /// The tool's annotations, as its server would list them.
    pub annotations: Option<Value>,
    /// The client's address.
    pub client: Option<std::net::IpAddr>,
}

/// What the gateway knows about a tool: its annotations by server and name.
pub type Catalogue<'c> = &'c dyn Fn(&str, &str) -> Option<Annotations>;

impl Inquiry {
    /// Asks the policy and shows the explanation to `tell`.
    ///
    /// # Errors
    /// What is wrong with the question, in words.
    pub fn ask<T>(
        &self,
        policy: &Policy,
        settings: &Settings,
        catalogue: Catalogue<'_>,
        tell: impl FnOnce(&Explanation<'_>) -> T,
    ) -> Result<T, String> {
        let caller = self.caller(settings)?;
        let (server, tool) = self.server(settings)?;
        let (method, subject) = match (
            tool,
            self.prompt.as_deref(),
            self.resource.as_deref(),
            self.method.as_deref(),
        ) {
            (Some(tool), None, None, None) => ("tools/call", Subject::Tool(tool)),
            (None, Some(prompt), None, None) => ("prompts/get", Subject::Prompt(prompt)),
            (None, None, Some(uri), None) => ("resources/read", Subject::Resource(uri)),
            (None, None, None, Some(method)) => (method, Subject::Method),
            _ => return Err("name one tool, prompt, resource or method".to_owned()),
        };
        let annotations = match (&self.annotations, tool) {
            (Some(given), _) if given.is_object() => Some(Annotations::of_json(given)),
            (Some(_), _) => return Err("annotations are a JSON object".to_owned()),
            (None, Some(tool)) => catalogue(server, tool),
            (None, None) => None,
        };
        let arguments = self.arguments.as_ref().map(|arguments| arguments.get().as_bytes());
        let (annotations, client) = (annotations.as_ref(), self.client);
        let asked =
            Asked { caller: &caller, server, method, subject, annotations, arguments, client };
        Ok(tell(&policy.explain(&asked)))
    }

    /// The same, answered in JSON: what `POST /explain` of a running gateway says.
    ///
    /// # Errors
    /// What is wrong with the question, in words.
    pub fn answer(
        &self,
        policy: &Policy,
        settings: &Settings,
        catalogue: Catalogue<'_>,
    ) -> Result<Value, String> {
        self.ask(policy, settings, catalogue, |explanation| {
            let mut answer = explanation.to_json(&settings.sources);
            answer["text"] = json!(explanation.to_text(&settings.sources));
            answer["combinations"] = json!(self.combinations(settings));
            answer
        })
    }

    /// What the combination rules would do with the tool, a sentence each.
    pub fn combinations(&self, settings: &Settings) -> Vec<String> {
        let Ok((server, Some(tool))) = self.server(settings) else { return Vec::new() };
        let config::Policy { labels, combinations, .. } = &settings.policy;
        let has = |label: usize| {
            let label = labels
                .get(label)
                .filter(|label| label.tools.iter().any(|pattern| pattern.matches(server, tool)));
            label.map(|label| label.name.as_str())
        };
        let mut told = Vec::new();
        for combination in combinations {
            let name = &combination.name;
            let at = settings.sources.locate(combination.place);
            if let Some(label) = has(combination.deny) {
                let after = &labels[combination.after].name;
                told.push(format!("combination {name} ({at}): {label}, so refused after {after}"));
            }
            if let Some(label) = has(combination.after) {
                let deny = &labels[combination.deny].name;
                told.push(format!("combination {name} ({at}): {label}, so {deny} is refused then"));
            }
        }
        told
    }

    fn caller(&self, settings: &Settings) -> Result<Caller, String> {
        let method = match (self.proof.as_deref(), &self.issuer) {
            (None, None) if self.caller == "anonymous" => return Ok(Caller::anonymous()),
            (Some("anonymous"), _) => return Ok(Caller::anonymous()),
            (None | Some("api_key"), None) => Method::ApiKey,
            (None | Some("jwt"), _) => Method::Jwt,
            (Some("introspection"), _) => Method::Introspection,
            (Some("certificate"), _) => Method::Certificate,
            (Some(_), _) => {
                return Err(format!("callers prove themselves by {}", config::METHODS.join(", ")));
            }
        };
        if self.caller.is_empty() {
            return Err("name a caller".to_owned());
        }
        let mut keys = settings.identity.api_keys.iter();
        let key = match method {
            Method::ApiKey => keys.find(|key| key.caller == self.caller),
            _ => None,
        };
        let of_key =
            |tenant: Option<String>| tenant.or_else(|| key.and_then(|key| key.tenant.clone()));
        let scopes = self.scopes.clone().or_else(|| key.map(|key| key.scopes.clone()));
        Ok(Caller::new(Proven {
            id: self.caller.clone(),
            issuer: self.issuer.clone(),
            tenant: of_key(self.tenant.clone()),
            scopes: scopes.unwrap_or_default(),
            claims: self.claims.clone().unwrap_or_default(),
            method,
        }))
    }

    /// The server, and the tool's own name.
    fn server<'s>(&'s self, settings: &'s Settings) -> Result<(&'s str, Option<&'s str>), String> {
        let names = || settings.servers.iter().map(|server| server.name.as_str());
        let known = |name: &str| names().any(|known| known == name);
        let tool = self.tool.as_deref();
        if let Some(server) = self.server.as_deref() {
            return if known(server) {
                Ok((server, tool))
            } else {
                let hint = nearest(server, names()).map(|name| format!("; did you mean {name}?"));
                Err(format!("there is no server {server}{}", hint.unwrap_or_default()))
            };
        }
        match tool.and_then(|tool| tool.split_once('/')) {
            Some((server, name)) if known(server) => return Ok((server, Some(name))),
            _ => {}
        }
        match settings.servers.as_slice() {
            [only] => Ok((&only.name, tool)),
            _ => Err(format!("name the server: {}", names().collect::<Vec<_>>().join(", "))),
        }
    }
}
