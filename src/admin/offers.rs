//! What a server offers as the admin API shows it: its era, its tools and how far they are trusted,
//! and definitions that wait to be approved.

use serde_json::{Value, json};

use crate::catalog::{Alike, Definition, Kind, Offer, Pending, ServerPins};
use crate::config::OnChange;
use crate::telemetry::rfc3339;

/// How much is told of each tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Its name and how far it is trusted.
    Names,
    /// Also what the server declares about it, and what changed last.
    Everything,
}

/// What is known of one server's offer.
pub(super) struct Known<'k> {
    pub(super) offer: &'k Offer,
    pub(super) pins: &'k ServerPins,
    pub(super) alikes: &'k [Alike],
    pub(super) on_change: OnChange,
}

impl Known<'_> {
    /// Adds it to a server in JSON.
    pub(super) fn add_to(&self, server: &mut Value, detail: Detail) {
        let tools = self.offer.list(Kind::Tools).all().iter();
        server["era"] = json!(self.offer.era.map(|era| era.as_str()));
        server["revisions"] = json!(self.offer.revisions());
        server["on_change"] = json!(self.on_change.as_str());
        server["tools"] = tools.map(|tool| self.tool(tool, detail)).collect();
        server["pending"] =
            self.pins.pending().map(|(tool, pending)| self.pending(tool, pending)).collect();
        server["alike"] = self.alikes.iter().map(alike).collect();
    }

    fn tool(&self, tool: &Definition, detail: Detail) -> Value {
        let pin = self.pins.find(&tool.name);
        let state = match pin {
            Some(pin) if pin.pending.is_some() => self.waits(),
            Some(pin) if pin.changed().is_some() => "changed",
            Some(_) => "pinned",
            None => "unknown",
        };
        let mut shown = json!({
            "name": &*tool.name,
            "digest": pin.map(|pin| pin.digest.to_string()),
            "state": state,
        });
        if detail == Detail::Everything {
            shown["annotations"] = json!(tool.annotations.declared);
            shown["since"] = json!(pin.map(|pin| rfc3339(pin.since())));
            shown["last_change"] = json!(pin.and_then(|pin| pin.changed()).map(rfc3339));
            shown["difference"] = json!(pin.map(|pin| &*pin.difference).unwrap_or_default());
        }
        shown
    }

    fn pending(&self, tool: &str, pending: &Pending) -> Value {
        json!({
            "tool": tool,
            "state": self.waits(),
            "digest": pending.digest.to_string(),
            "shown_digest": self.pins.find(tool).map(|pin| pin.digest.to_string()),
            "since": rfc3339(pending.since()),
            "difference": pending.difference,
        })
    }

    /// What becomes of a tool of which another definition waits.
    fn waits(&self) -> &'static str {
        match self.on_change {
            OnChange::Refuse => "refused",
            OnChange::Withhold | OnChange::Record => "withheld",
        }
    }
}

fn alike(alike: &Alike) -> Value {
    let others: Vec<Value> = alike
        .others
        .iter()
        .map(|(server, tool)| json!({ "server": &**server, "tool": &**tool }))
        .collect();
    json!({
        "tool": &*alike.tool, "how": alike.how.as_str(), "others": others, "more": alike.more,
    })
}
