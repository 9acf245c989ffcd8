//! Cross references: what one section names in another, and what may be named only once.

use std::collections::BTreeMap;

use super::place::Place;
use super::problem::nearest;
use super::reading::Reading;
use super::shape::At;

/// Whether everything that could define a name was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    Whole,
    /// A section or a file has a problem, so a name that is not found may still be defined.
    Partial,
}

/// The names of all servers, also of those with problems, so that one mistake is not reported twice.
pub(super) struct ServerNames {
    names: Vec<String>,
    completeness: Completeness,
}

impl ServerNames {
    pub(super) fn new(names: Vec<String>, completeness: Completeness) -> Self {
        Self { names, completeness }
    }

    /// The index of the server that is named.
    pub(super) fn resolve(&self, named: &At<String>, reading: &mut Reading<'_>) -> Option<usize> {
        let index = self.names.iter().position(|name| *name == named.value);
        if index.is_none() && self.completeness == Completeness::Whole {
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            let message = "there is no server of this name";
            if names.is_empty() {
                reading.problem(named.place, message, "define it under `servers`");
            } else {
                note_unknown(named.place, &named.value, &names, message, reading);
            }
        }
        index
    }
}

/// Notes a name that nothing has, with the one that is meant or all there are.
pub(super) fn note_unknown(
    place: Place,
    name: &str,
    known: &[&str],
    message: &str,
    reading: &mut Reading<'_>,
) {
    let hint = match nearest(name, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "none is defined".to_owned(),
        None => {
            let mut known = known.to_vec();
            known.dedup();
            format!("defined are: {}", known.join(", "))
        }
    };
    reading.problem(place, message, hint);
}

/// Notes every value that was there before, pointing to its first place.
pub(super) fn note_duplicates<'a>(
    values: impl Iterator<Item = (Place, &'a str)>,
    message: &str,
    reading: &mut Reading<'_>,
) {
    let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
    for (place, value) in values {
        if let Some(first) = seen.get(value) {
            let hint = format!("the first is at {}", reading.texts.locate(*first));
            reading.problem(place, message, hint);
        } else {
            seen.insert(value, place);
        }
    }
}
