//! What several servers say of themselves as one: `initialize` and `server/discover`.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::definition::depth;
use super::list::{SERVER_INFO, caching};
use super::{Federation, Merged};
use crate::catalog::{Audience, Offer};
use crate::mcp::{Era, Revision};

/// What each server may say to the model; what all say together is longer by as much.
const INSTRUCTIONS_CHARS_MAX: usize = 16 * 1024;
/// Deeper greetings say nothing.
const DEPTH_MAX: usize = 64;
/// Extensions whose methods name what they are about, so that they find their server.
const ROUTED_EXTENSIONS: [&str; 2] =
    ["io.modelcontextprotocol/tasks", "io.modelcontextprotocol/ui"];

/// What a greeting says that does not depend on who asks.
pub(super) struct Words {
    /// As JSON.
    capabilities: String,
    /// As a JSON string.
    instructions: Option<String>,
    ttl: Duration,
    audience: Audience,
}

impl Federation {
    /// The `result` of `initialize` for the revision that was asked for, or of `server/discover`.
    pub fn greeting(&self, era: Era, asked: Option<Revision>) -> Bytes {
        let merged = self.merged();
        let words = merged.words[era as usize].get_or_init(|| self.words(era, &merged));
        let Words { capabilities, instructions, ttl, audience } = words;
        let instructions = match instructions {
            Some(instructions) => format!(r#","instructions":{instructions}"#),
            None => String::new(),
        };
        let text = match era {
            Era::Legacy => {
                let revision = asked.filter(|revision| revision.era() == Era::Legacy);
                let revision = revision.unwrap_or(Revision::V2025_11_25);
                format!(
                    r#"{{"protocolVersion":"{revision}","capabilities":{capabilities},"serverInfo":{SERVER_INFO}{instructions}}}"#
                )
            }
            Era::Modern => {
                let caching = caching(u64::try_from(ttl.as_millis()).unwrap_or(0), *audience);
                let versions = self.versions();
                let versions: Vec<&str> = versions.iter().map(|of| of.as_str()).collect();
                let versions = json!(versions);
                format!(
                    r#"{{{caching},"supportedVersions":{versions},"capabilities":{capabilities}{instructions},"_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}}}"#
                )
            }
        };
        text.into()
    }

    /// The revisions in which any of the servers can be spoken to, newest first.
    pub fn versions(&self) -> Vec<Revision> {
        let newest_first = Revision::ALL.into_iter().rev();
        newest_first.filter(|revision| self.speaks(revision.era())).collect()
    }

    fn words(&self, era: Era, merged: &Merged) -> Words {
        let mut capabilities = Map::new();
        let mut instructions = Vec::new();
        let (mut ttl, mut audience) = (Duration::MAX, Audience::Everyone);
        let is_alone = self.members.len() == 1;
        for (member, (offer, voice)) in
            self.members.iter().zip(merged.offers.iter().zip(&merged.voices))
        {
            if !voice.speaks(era) {
                continue;
            }
            let Some(said) = said(offer) else {
                // It may offer anything, and clients ask only for what is said to be there.
                for capability in ["tools", "prompts", "resources"] {
                    capabilities.entry(capability).or_insert_with(|| json!({}));
                }
                (ttl, audience) = (Duration::ZERO, Audience::Caller);
                continue;
            };
            if let Value::Object(own) = &said["capabilities"] {
                let own = match is_alone {
                    true => own.clone(),
                    false => routable(own, era),
                };
                unite(&mut capabilities, own);
            }
            if let Some(text) = said["instructions"].as_str().filter(|text| !text.is_empty()) {
                let text: String = text.chars().take(INSTRUCTIONS_CHARS_MAX).collect();
                instructions.push(match is_alone {
                    true => text,
                    false => format!("# {}\n{text}", member.name),
                });
            }
            ttl = ttl.min(Duration::from_millis(said["ttlMs"].as_u64().unwrap_or(0)));
            if said["cacheScope"] != "public" {
                audience = Audience::Caller;
            }
        }
        let instructions =
            (!instructions.is_empty()).then(|| Value::from(instructions.join("\n\n")).to_string());
        let ttl = if ttl == Duration::MAX { Duration::ZERO } else { ttl };
        Words { capabilities: Value::from(capabilities).to_string(), instructions, ttl, audience }
    }
}

/// What a server said of itself, if it did.
fn said(offer: &Offer) -> Option<Value> {
    if offer.greeting.is_empty() || depth(&offer.greeting) > DEPTH_MAX {
        return None;
    }
    simd_json::serde::from_slice(&mut offer.greeting.to_vec()).ok()
}

/// Of several servers, what can be led to the right one.
fn routable(capabilities: &Map<String, Value>, era: Era) -> Map<String, Value> {
    let mut routable = capabilities.clone();
    // Nobody knows what these mean, so nobody can tell whose they are.
    routable.remove("experimental");
    // A list of tasks there is in the legacy era only.
    if let (Era::Modern, Some(Value::Object(tasks))) = (era, routable.get_mut("tasks")) {
        tasks.remove("list");
    }
    if let Some(Value::Object(extensions)) = routable.get_mut("extensions") {
        extensions.retain(|name, _| ROUTED_EXTENSIONS.contains(&name.as_str()));
        if extensions.is_empty() {
            routable.remove("extensions");
        }
    }
    routable
}

/// What either says; of two answers to the same question, yes.
fn unite(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => unite(into, from),
            (Some(known @ Value::Bool(false)), Value::Bool(true)) => *known = Value::Bool(true),
            (Some(known @ Value::Null), value) => *known = value,
            (Some(_), _) => {}
            (None, value) => _ = into.insert(key, value),
        }
    }
}
