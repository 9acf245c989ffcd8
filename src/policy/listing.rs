//! What a list shows: what could be called, by the same rules.

use std::net::IpAddr;

use super::asked::{Asked, Subject};
use super::authorize::{Outcome, Policy};
use super::bits::Bits;
use super::condition::{Occasion, Question};
use crate::identity::Caller;
use crate::mcp::{Annotations, Listed};

/// What one caller sees of one server.
pub struct Listing<'a> {
    policy: &'a Policy,
    caller: &'a Caller,
    server: &'a str,
    client: Option<IpAddr>,
}

impl Policy {
    /// What the caller sees of the server.
    pub fn listing<'a>(
        &'a self,
        caller: &'a Caller,
        server: &'a str,
        client: Option<IpAddr>,
    ) -> Listing<'a> {
        Listing { policy: self, caller, server, client }
    }
}

impl Listing<'_> {
    /// Whether everything is shown, so that lists need not be read: a rule without a condition
    /// allows everything, and no rule denies anything here or requires scopes for resources, whose
    /// URIs must be normal then.
    pub fn is_open(&self) -> bool {
        let Self { policy, caller, server, .. } = self;
        if !policy.is_in_force() {
            return true;
        }
        let Some(here) = policy.tables.at(server) else { return false };
        let [deny, allow, require] = policy.masks();
        policy.tables.with_caller(&policy.rules, caller, |met| {
            let opens = |rule: usize| {
                let rule = &policy.rules[rule];
                rule.subjects.is_everything() && rule.condition.is_none()
            };
            let asks_for_resources = |rule: usize| {
                let subjects = &policy.rules[rule].subjects;
                subjects.is_everything() || subjects.resources.is_some()
            };
            !Bits::meet([deny, &met.meant, here])
                && !Bits::in_all([require, &met.meant, here]).any(asks_for_resources)
                && Bits::in_all([allow, &met.meant, here]).any(opens)
        })
    }

    /// Whether one thing is shown. What could be done with more scopes is shown too, and what
    /// depends on arguments.
    pub fn shows(&self, listed: Listed, name: &str, annotations: Option<&Annotations>) -> bool {
        let Self { policy, caller, server, client } = *self;
        let (subject, method) = match listed {
            Listed::Tool => (Subject::Tool(name), "tools/call"),
            Listed::Prompt => (Subject::Prompt(name), "prompts/get"),
            Listed::Resource => (Subject::Resource(name), "resources/read"),
            Listed::Template => (Subject::Template(name), "resources/read"),
        };
        let asked = Asked { caller, server, method, subject, annotations, arguments: None, client };
        let question = Question::new(&asked, &policy.env, &policy.watched, Occasion::List);
        policy.ruling(&question).outcome != Outcome::Refused
    }
}
