//! What happens when a server changes the definition of a tool that was shown: `definitions`.

use serde_json::Value;

use super::catalog::{Listing, ServerCatalog};
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::shape::{Scalar, shape};

/// How far a server may change what its tools say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Definitions {
    /// What happens when it does.
    pub on_change: OnChange,
}

/// What happens when a server changes the definition of a tool that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum OnChange {
    /// The new one is shown, and the change is recorded.
    #[default]
    Record,
    /// The old one stays shown until an operator approves the new one; calls go on.
    Withhold,
    /// The tool is hidden and not called until an operator approves the new one.
    Refuse,
}

shape! {
    /// What happens when this server changes the definition of a tool that was shown.
    DefinitionsText {
        /// record (the new one is shown), withhold (the old one stays shown until the new one is approved) or refuse (the tool is hidden and not called until then).
        optional on_change: OnChange,
    }
}

const CHANGES: &[(&str, OnChange)] =
    &[("record", OnChange::Record), ("withhold", OnChange::Withhold), ("refuse", OnChange::Refuse)];

impl OnChange {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        CHANGES.iter().find(|(_, of)| *of == self).map_or("", |(word, _)| word)
    }
}

impl Scalar for OnChange {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, CHANGES)
    }

    fn schema() -> Value {
        choice_schema(CHANGES)
    }
}

impl DefinitionsText {
    /// Without lists of its own the gateway would never see a change, and hold nothing back.
    pub(super) fn check(
        self,
        head: Place,
        catalog: &ServerCatalog,
        reading: &mut Reading<'_>,
    ) -> Definitions {
        let on_change = self.on_change.or(OnChange::default());
        if on_change != OnChange::Record && catalog.listing == Listing::Off {
            reading.problem(
                head,
                "changes can only be held back where the gateway lists the server",
                "write `catalog: { listing: on }`, or `on_change: record`",
            );
        }
        Definitions { on_change }
    }
}
