//! The clients of long-lived streams: they read events in order, and reopen a stream that ended where they left off.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::Load;
use crate::messages;
use crate::peer::{Fault, Peer, Request};
use crate::tally::{Asked, Streams};

/// Before a stream is opened again, unless the stream has said how long to wait (`retry:`).
const REOPEN_AFTER: Duration = Duration::from_millis(50);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(2);

/// What a stream has told so far.
#[derive(Default)]
struct Reading {
    unread: String,
    /// The last id, for `Last-Event-ID`; only the gateway knows what it means.
    last_id: Option<String>,
    /// The last event by what stands in it: the upstream session, and its number there.
    last_event: Option<(String, u64)>,
    retry: Option<Duration>,
    before: Before,
}

/// What was before the next event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    Nothing,
    Event,
    CleanEnd,
    Cut,
}

/// Watches the GET stream of a session for as long as its client lets it.
pub(crate) async fn watch(load: &Load, peer: &mut Peer, session: &str) {
    let mut reading = Reading::default();
    loop {
        let request = messages::stream(session, reading.last_id.as_deref());
        match follow(load, peer, "GET", &request, &mut reading).await {
            // The session is gone; its client will notice by itself.
            Some(Fault::Status(404, _)) => return std::future::pending().await,
            _ => tokio::time::sleep(reading.pause()).await,
        }
    }
}

/// Keeps a `subscriptions/listen` open; without event ids there is nothing to resume.
pub(crate) async fn listen(load: &Load, mut peer: Peer) {
    loop {
        let mut reading = Reading::default();
        let request = messages::listen(load.next_id());
        follow(load, &mut peer, "subscriptions/listen", &request, &mut reading).await;
        tokio::time::sleep(reading.pause()).await;
    }
}

/// Opens a stream and reads it to its end, clean or not; a stream that could not be opened is a failed request.
async fn follow(
    load: &Load,
    peer: &mut Peer,
    what: &'static str,
    request: &Request,
    reading: &mut Reading,
) -> Option<Fault> {
    let asked = Asked { what, id: 0, gateway: 0, replica: None, sent: Instant::now() };
    let opened = match peer.head(request).await {
        Ok(head) if head.status == 200 && head.is_stream => Ok(()),
        Ok(head) => Err(Fault::Status(head.status, String::new())),
        Err(fault) => Err(fault),
    };
    if let Err(fault) = opened {
        load.tally.lock().failed(asked, fault.clone());
        return Some(fault);
    }
    load.tally.lock().streams.opened += 1;
    loop {
        let part = peer.part().await;
        let mut tally = load.tally.lock();
        match part {
            Ok(Some(part)) => {
                reading.unread.push_str(&String::from_utf8_lossy(&part));
                reading.events(&mut tally.streams);
            }
            Ok(None) => {
                tally.streams.clean += 1;
                reading.ended(Before::CleanEnd);
                return None;
            }
            Err(fault) => {
                tally.streams.cut += 1;
                reading.ended(Before::Cut);
                return Some(fault);
            }
        }
    }
}

impl Reading {
    fn pause(&self) -> Duration {
        self.retry.unwrap_or(REOPEN_AFTER).min(REOPEN_AFTER_MAX)
    }

    fn ended(&mut self, before: Before) {
        self.unread.clear();
        // Two ends in a row are as bad as the worse of them.
        if self.before != Before::Cut {
            self.before = before;
        }
    }

    /// Takes the whole events out of what has come.
    fn events(&mut self, streams: &mut Streams) {
        while let Some(end) = self.unread.find("\n\n") {
            let event: String = self.unread.drain(..end + 2).collect();
            for line in event.lines() {
                if let Some(id) = line.strip_prefix("id:") {
                    self.last_id = Some(id.trim().to_owned());
                } else if let Some(retry) = line.strip_prefix("retry:") {
                    self.retry = retry.trim().parse().ok().map(Duration::from_millis);
                } else if let Some(told) = line.strip_prefix("data:") {
                    self.event(&serde_json::from_str(told).unwrap_or_default(), streams);
                }
            }
        }
    }

    fn event(&mut self, told: &Value, streams: &mut Streams) {
        let told = &told["params"]["data"];
        let (Some(stream), Some(number)) = (told["stream"].as_str(), told["number"].as_u64())
        else {
            return;
        };
        streams.events += 1;
        if let Some((last_stream, last)) = &self.last_event {
            if last_stream != stream {
                streams.moved += 1;
            } else if number != last + 1 {
                streams.gaps += 1;
            } else if self.before == Before::CleanEnd {
                streams.resumed_after_clean += 1;
            } else if self.before == Before::Cut {
                streams.resumed_after_cut += 1;
            }
        }
        self.before = Before::Event;
        self.last_event = Some((stream.to_owned(), number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_followed_over_the_ends_of_streams() {
        let event = |stream: &str, number: u64| {
            format!(
                "event: message\nid: {stream}-{number}\ndata: {{\"params\":{{\"data\":{{\"stream\":\"{stream}\",\"number\":{number}}}}}}}\n\n"
            )
        };
        let mut streams = Streams::default();
        let mut reading = Reading::default();
        let mut tell = |text: &str, before: Option<Before>| {
            // In two pieces, as a network may deliver it.
            let (first, second) = text.split_at(text.len() / 2);
            for piece in [first, second] {
                reading.unread.push_str(piece);
                reading.events(&mut streams);
            }
            if let Some(before) = before {
                reading.ended(before);
            }
            (reading.last_id.clone(), streams)
        };
        tell(&format!(": ready\n\n{}", event("a", 4)), None);
        let (id, seen) = tell(&event("a", 5), Some(Before::CleanEnd));
        assert_eq!((id.as_deref(), seen.events, seen.gaps), (Some("a-5"), 2, 0));
        let (_, seen) = tell(&event("a", 6), Some(Before::Cut));
        assert_eq!((seen.resumed_after_clean, seen.resumed_after_cut), (1, 0));
        let (_, seen) = tell(&event("a", 7), None);
        assert_eq!((seen.resumed_after_clean, seen.resumed_after_cut), (1, 1));
        let (_, seen) = tell(&event("a", 9), None);
        assert_eq!((seen.gaps, seen.moved), (1, 0));
        let (id, seen) = tell(&event("b", 1), None);
        assert_eq!((id.as_deref(), seen.gaps, seen.moved), (Some("b-1"), 1, 1));
    }
}
