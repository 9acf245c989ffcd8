//! Finds the endpoint for a planned request, and another one when the first cannot be reached.

use std::sync::Arc;

use super::plan::{Forward, Placement};
use crate::telemetry::Reason;
use crate::upstream::{Endpoint, Load, Wanted, now_ms};

/// How many endpoints a request is offered to before the client is told.
const ATTEMPTS_MAX: usize = 3;

/// The endpoints one request has met.
#[derive(Default)]
pub(super) struct Tried {
    unreachable: Vec<u64>,
}

impl Tried {
    /// The next endpoint to try.
    pub(super) fn next(&self, forward: &Forward) -> Result<Arc<Endpoint>, Reason> {
        match &forward.placement {
            Placement::Pinned(endpoint) if self.unreachable.is_empty() => Ok(Arc::clone(endpoint)),
            Placement::Pinned(_) => Err(Reason::EndpointUnreachable),
            Placement::Any { .. } if self.unreachable.len() >= ATTEMPTS_MAX => {
                Err(Reason::EndpointUnreachable)
            }
            Placement::Any { key, random } => {
                let wanted = Wanted {
                    key: key.as_bytes(),
                    random: *random,
                    tried: &self.unreachable,
                    load: Load::Calls,
                    now_ms: now_ms(),
                };
                match forward.pool.choose(&wanted) {
                    Some(endpoint) => Ok(endpoint),
                    None if self.unreachable.is_empty() => Err(Reason::EndpointNone),
                    None => Err(Reason::EndpointUnreachable),
                }
            }
        }
    }

    /// Remembers an endpoint that could not be connected to: nothing was sent, so the request may
    /// go elsewhere whatever it is.
    pub(super) fn unreachable(&mut self, endpoint: &Endpoint) {
        self.unreachable.push(endpoint.id());
    }
}
