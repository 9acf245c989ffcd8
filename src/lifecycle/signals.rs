//! The signals to stop and to hand over, heard from the start of the process to its end.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Cause, Handover, Lifecycle, State, notify};

/// SIGTERM drains, SIGINT ends at once, SIGQUIT hands over to a successor that waits for it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// Hears signals from now on; the process no longer ends by itself when one comes.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Does what the signals say, and returns when the process may end.
    pub async fn obey(mut self, lifecycle: &Lifecycle, handover: &Handover, grace: Duration) {
        let Some(cause) = self.cause(handover).await else { return };
        match cause {
            Cause::Told => {
                notify(State::Stopping);
                tracing::info!(grace_seconds = grace.as_secs(), "draining");
            }
            Cause::HandedOver => tracing::info!("draining: a successor serves"),
        }
        tokio::select! {
            () = lifecycle.drain(cause, grace) => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a reason to drain; `None`: there is no time for that.
    async fn cause(&mut self, handover: &Handover) -> Option<Cause> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Some(Cause::Told),
                _ = self.interrupt.recv() => return None,
                _ = self.quit.recv() => {}
            }
            // The other signals are heard while the successor takes its time.
            tokio::select! {
                handed = handover.hand_over() => match handed {
                    Ok(()) => return Some(Cause::HandedOver),
                    Err(fault) => tracing::error!("no handover, this process goes on: {fault}"),
                },
                _ = self.terminate.recv() => return Some(Cause::Told),
                _ = self.interrupt.recv() => return None,
            }
        }
    }
}
