//! Whether a run has reached its goal: which failures its events excuse, and everything else that must not be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::peer::Fault;
use crate::tally::{Failure, Tally};

/// What a busy machine may add to a time limit of the gateway before it counts as missed.
const SLACK: Duration = Duration::from_millis(500);
/// Failures that are told one by one.
const TOLD_MAX: usize = 4;

/// What the events of a scenario leave behind.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) kills: Vec<Kill>,
    pub(crate) hang: Option<Hang>,
    /// Whether sessions must have found their state again wherever they were served.
    pub(crate) restoring: Restoring,
    pub(crate) moving: Moving,
    /// Why the goal is missed.
    pub(crate) missed: Vec<String>,
    /// What else is worth a line.
    pub(crate) said: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Restoring {
    #[default]
    Demanded,
    /// With several gateways the one that moves a session need not be the one that saw its state.
    Told,
}

/// How sessions move where there are several gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Moving {
    /// Each gateway may move a session for itself.
    #[default]
    Each,
    /// One of them does, and the others follow.
    Once,
}

/// A replica that was killed, from before the signal until the process was gone.
#[derive(Clone, Debug)]
pub(crate) struct Kill {
    pub(crate) replica: String,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// A replica that was stopped where it stood.
#[derive(Clone, Debug)]
pub(crate) struct Hang {
    pub(crate) began: Instant,
    /// The gateway's limit to the first byte.
    pub(crate) limit: Duration,
    /// By gateway: when it was seen to have ejected the replica.
    pub(crate) ejected: Vec<Instant>,
}

pub(crate) struct Verdict {
    pub(crate) calls: u64,
    pub(crate) failed: usize,
    pub(crate) allowed: usize,
    pub(crate) twice: usize,
    pub(crate) missed: Vec<String>,
}

/// Weighs everything the clients saw and the replicas ran.
pub(crate) fn judge(tally: &Tally, ledger: &Ledger, findings: &Findings) -> Verdict {
    let (allowed, failed): (Vec<&Failure>, Vec<&Failure>) =
        tally.failures.iter().partition(|failure| is_allowed(failure, ledger, findings));
    let mut missed = findings.missed.clone();
    if !failed.is_empty() {
        missed.push(format!("{} requests failed: {}", failed.len(), kinds(&failed)));
        missed.extend(failed.iter().take(TOLD_MAX).map(|failure| line(failure, findings)));
    }
    let twice = ledger.twice();
    if !twice.is_empty() {
        missed.push(format!("{} calls ran twice, such as {}", twice.len(), twice[0]));
    }
    let unseen = tally.answered.iter().filter(|id| ledger.ran(**id).is_empty()).count();
    if unseen > 0 {
        missed.push(format!("{unseen} calls were answered that no replica has run"));
    }
    if tally.unrestored > 0 && findings.restoring == Restoring::Demanded {
        let calls = tally.unrestored;
        missed.push(format!(
            "{calls} calls ran in sessions that lack their log level or subscription"
        ));
    }
    let paths: Vec<_> = tally.in_session.values().map(|calls| ledger.path(calls)).collect();
    let returns = paths.iter().filter(|(_, returns)| *returns > 0).count();
    if returns > 0 && findings.moving == Moving::Once {
        missed.push(format!("{returns} sessions came back to where they had left"));
    }
    let streams = &tally.streams;
    if streams.cut > streams.resumed_after_cut {
        let lost = streams.cut - streams.resumed_after_cut;
        missed.push(format!("{lost} streams were cut and could not be resumed"));
    }
    if streams.gaps > 0 {
        missed.push(format!("{} times an event was missing or came twice", streams.gaps));
    }
    if let Some(hang) = &findings.hang {
        let late = late_after_ejection(tally, hang);
        if late > 0 {
            missed.push(format!("{late} calls waited for the hung replica after it was ejected"));
        }
    }
    let calls = tally.answered.len() + calls_among(&failed) + calls_among(&allowed);
    let (failed, allowed) = (failed.len(), allowed.len());
    Verdict { calls: calls as u64, failed, allowed, twice: twice.len(), missed }
}

/// How many failed in which way.
fn kinds(failures: &[&Failure]) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for Failure { asked, fault, .. } in failures {
        let how = match fault {
            Fault::Status(status, _) => format!("status {status}"),
            other => other.to_string(),
        };
        *counts.entry(format!("{} {how}", asked.what)).or_default() += 1;
    }
    let kinds = counts.iter().map(|(kind, count)| format!("{count} {kind}"));
    kinds.collect::<Vec<_>>().join(", ")
}

fn calls_among(failures: &[&Failure]) -> usize {
    failures.iter().filter(|failure| failure.asked.what == "tools/call").count()
}

fn is_allowed(failure: &Failure, ledger: &Ledger, findings: &Findings) -> bool {
    let killed = findings.kills.iter().any(|kill| died_with(failure, kill, ledger));
    killed || findings.hang.as_ref().is_some_and(|hang| was_hit(failure, hang))
}

/// Whether the request was under way when its replica was killed, may have reached it, has run nowhere else, and the gateway said so or had begun to pass on an answer.
fn died_with(failure: &Failure, kill: &Kill, ledger: &Ledger) -> bool {
    let asked = &failure.asked;
    let under_way = asked.sent <= kill.ended && failure.ended >= kill.began;
    let ran = ledger.ran(asked.id);
    let there = match ran {
        // A client whose session was never served yet, and one without, cannot tell where it went.
        [] => asked.replica.as_ref().is_none_or(|replica| *replica == kill.replica),
        [replica] => *replica == kill.replica,
        _ => false,
    };
    under_way && there && matches!(failure.fault, Fault::Status(502, _) | Fault::Cut(_))
}

/// Whether the request met the hung replica before the gateway had ejected it, and was told in time.
fn was_hit(failure: &Failure, hang: &Hang) -> bool {
    let asked = &failure.asked;
    let before = hang.ejected.get(asked.gateway).is_none_or(|ejected| asked.sent < *ejected);
    let in_time = failure.ended - asked.sent <= hang.limit + SLACK;
    // A request that was under way when the replica stopped has been sent before.
    let after = failure.ended >= hang.began;
    before && after && in_time && matches!(failure.fault, Fault::Status(504, _))
}

fn late_after_ejection(tally: &Tally, hang: &Hang) -> usize {
    let after = |gateway: usize, sent: Instant| {
        hang.ejected.get(gateway).is_some_and(|ejected| sent >= *ejected)
    };
    tally.slow.iter().filter(|slow| after(slow.gateway, slow.sent)).count()
}

fn line(failure: &Failure, findings: &Findings) -> String {
    let Failure { asked, ended, fault } = failure;
    let took = (*ended - asked.sent).as_millis();
    let replica = asked.replica.as_deref().unwrap_or("?");
    let mut text = format!(
        "  {} {} by gateway {} in a session at {replica}, after {took} ms: {fault}",
        asked.what, asked.id, asked.gateway
    );
    let last = findings.kills.iter().rfind(|kill| kill.began <= *ended);
    if let Some(kill) = last {
        let since = asked.sent.saturating_duration_since(kill.ended).as_millis();
        text += &format!(" (sent {since} ms after {} was gone)", kill.replica);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::SessionState;
    use crate::tally::Asked;

    /// A call sent at `sent` and failed at `ended`, in milliseconds; the replica `a` is killed from 100 to 110.
    fn check(sent: u64, ended: u64, fault: Fault, replica: Option<&str>, ran: &str, allowed: bool) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let kill = Kill { replica: "a".to_owned(), began: at(100), ended: at(110) };
        let replica = replica.map(str::to_owned);
        let asked = Asked { what: "tools/call", id: 7, gateway: 0, replica, sent: at(sent) };
        let failure = Failure { asked, ended: at(ended), fault: fault.clone() };
        let file = std::env::temp_dir().join(format!("ledger-{:x}", fastrand::u64(..)));
        std::fs::write(&file, ran).unwrap();
        let ledger = Ledger::read(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        assert_eq!(died_with(&failure, &kill, &ledger), allowed, "{fault} {sent} {ended} {ran}");
    }

    #[test]
    fn only_what_died_with_its_replica_is_excused() {
        let refused = || Fault::Status(502, String::new());
        check(90, 105, refused(), Some("a"), "", true);
        check(90, 105, refused(), Some("a"), "n7 a s\n", true);
        check(90, 105, refused(), None, "", true);
        check(90, 105, Fault::Cut(String::new()), Some("a"), "n7 a s\n", true);
        // Too late, too early, elsewhere, ran elsewhere, or no word from the gateway.
        check(120, 125, refused(), Some("a"), "", false);
        check(80, 90, refused(), Some("a"), "", false);
        check(90, 105, refused(), Some("b"), "", false);
        check(90, 105, refused(), Some("a"), "n7 b s\n", false);
        check(90, 105, refused(), Some("a"), "n7 a s\nn7 b s\n", false);
        check(90, 105, Fault::Unanswered(String::new()), Some("a"), "", false);
        check(90, 105, Fault::Status(404, String::new()), Some("a"), "", false);
        check(90, 105, Fault::Status(503, String::new()), Some("a"), "", false);
    }

    #[test]
    fn a_wait_after_ejection_is_a_miss() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let limit = Duration::from_secs(1);
        let hang = Hang { began: at(100), limit, ejected: vec![at(1000)] };
        let asked = |sent| Asked { what: "tools/call", id: 1, gateway: 0, replica: None, sent };
        let failed = |sent, ended, status| {
            let fault = Fault::Status(status, String::new());
            was_hit(&Failure { asked: asked(at(sent)), ended: at(ended), fault }, &hang)
        };
        assert!(failed(200, 1201, 504));
        assert!(!failed(200, 1201, 502));
        assert!(!failed(200, 1900, 504));
        assert!(!failed(1000, 1990, 504));
        let mut tally = Tally::default();
        tally.answered(asked(at(900)), None, Duration::from_secs(1), SessionState::Whole);
        assert_eq!(late_after_ejection(&tally, &hang), 0);
        tally.answered(asked(at(1001)), None, Duration::from_secs(1), SessionState::Whole);
        assert_eq!(late_after_ejection(&tally, &hang), 1);
    }
}
