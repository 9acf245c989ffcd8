//! Since when servers and endpoints are as they are, as far as anyone has looked.

use std::collections::HashMap;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::upstream::State;

/// What was last seen of every server.
#[derive(Default)]
pub(super) struct Sightings(Mutex<HashMap<String, Seen>>);

struct Seen {
    tag: String,
    changed: SystemTime,
    endpoints: HashMap<u64, (State, SystemTime)>,
}

/// Since when a server is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Since {
    /// The last change of what somebody wants: members, weights, drains, settings.
    pub(super) changed: SystemTime,
    /// When each endpoint came into its state, in the order in which they were given.
    pub(super) endpoints: Vec<SystemTime>,
}

impl Sightings {
    /// Takes note of a server as it is now.
    pub(super) fn see(
        &self,
        server: &str,
        tag: &str,
        endpoints: &[(u64, State)],
        now: SystemTime,
    ) -> Since {
        let mut servers = self.0.lock();
        let seen = servers.entry(server.to_owned()).or_insert_with(|| Seen {
            tag: tag.to_owned(),
            changed: now,
            endpoints: HashMap::new(),
        });
        if seen.tag != tag {
            tag.clone_into(&mut seen.tag);
            seen.changed = now;
        }
        let since = |(id, state): &(u64, State)| match seen.endpoints.get(id) {
            Some((before, since)) if before == state => (*id, (*state, *since)),
            _ => (*id, (*state, now)),
        };
        let all: Vec<_> = endpoints.iter().map(since).collect();
        seen.endpoints = all.iter().copied().collect();
        let endpoints = all.into_iter().map(|(_, (_, since))| since).collect();
        Since { changed: seen.changed, endpoints }
    }

    /// Forgets servers that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|name, _| is_there(name));
    }
}

#[cfg(test)]
mod tests {
    use super::Sightings;
    use crate::upstream::State;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_time_moves_when_what_it_is_of_changes() {
        let sightings = Sightings::default();
        let rows = [
            ("t1", State::Serving, State::Serving, 0, [0, 0]),
            ("t1", State::Serving, State::Serving, 0, [0, 0]),
            ("t1", State::Serving, State::Ejected, 0, [0, 2]),
            ("t2", State::Draining, State::Ejected, 3, [3, 2]),
            ("t2", State::Draining, State::Serving, 3, [3, 4]),
        ];
        for (second, (tag, one, two, changed, endpoints)) in (0..).zip(rows) {
            let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
            let since = sightings.see("a", tag, &[(1, one), (2, two)], at(second));
            assert_eq!(since.changed, at(changed), "second {second}");
            assert_eq!(since.endpoints, endpoints.map(at), "second {second}");
        }
        sightings.retain(|_| false);
        let later = UNIX_EPOCH + Duration::from_secs(9);
        assert_eq!(sightings.see("a", "t2", &[], later).changed, later);
    }
}
