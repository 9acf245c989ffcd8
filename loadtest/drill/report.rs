//! The table: one line for each run, and below it why the goal was missed.

use crate::tally::Tally;
use crate::verdict::{Findings, Verdict};

/// What the line tells beside the verdict.
pub(crate) struct Run {
    pub(crate) scenario: &'static str,
    pub(crate) gateways: usize,
    pub(crate) moved: Option<f64>,
    pub(crate) seconds: f64,
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<9}{:>8}{:>9}{:>8}{:>9}{:>7}{:>7}{:>7}{:>22}{:>9}{:>9}{:>6}",
        "scenario",
        "gateways",
        "calls",
        "failed",
        "allowed",
        "moved",
        "twice",
        "blank",
        "clean/cut/resumed",
        "p50 ms",
        "p99 ms",
        "s"
    )
}

/// The line of one run, and what there is to say about it.
pub(crate) fn lines(run: &Run, tally: &Tally, findings: &Findings, verdict: &Verdict) -> String {
    let Run { scenario, gateways, moved, seconds } = run;
    let moved = moved.map_or_else(|| "-".to_owned(), |moved| format!("{moved:.0}"));
    let streams = &tally.streams;
    let resumed = streams.resumed_after_clean + streams.resumed_after_cut;
    let ends = format!("{}/{}/{resumed}", streams.clean, streams.cut);
    let mut text = format!(
        "{scenario:<9}{gateways:>8}{:>9}{:>8}{:>9}{moved:>7}{:>7}{:>7}{ends:>22}{:>9.2}{:>9.2}{seconds:>6.0}  {}",
        verdict.calls,
        verdict.failed,
        verdict.allowed,
        verdict.twice,
        tally.unrestored,
        tally.milliseconds(0.5),
        tally.milliseconds(0.99),
        if verdict.missed.is_empty() { "reached" } else { "MISSED" },
    );
    for said in &findings.said {
        text += &format!("\n    {said}");
    }
    for missed in &verdict.missed {
        text += &format!("\n  ! {missed}");
    }
    text
}
