//! Election of the leader: a state machine without I/O, with the time passed in.
//!
//! The servers share one row: the epoch, the count of renewals, and the server that leads. The leader raises the count
//! every now and then. Another server takes over when it has seen the row unchanged for the time of a lease, and only if it
//! is still unchanged at that moment (compare and swap), which raises the epoch. The leader counts the time of a lease from
//! before it sends a renewal, so that its lease ends before anybody takes over.
//!
//! All times are durations on a server's own monotonic clock. No wall clock matters, neither of the servers nor of the
//! database.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::Time;

/// Parts of the time of a lease after which the leader renews it.
const RENEWALS_PER_LEASE: u32 = 4;
/// Part of the time of a lease by which the leader stops early: room for clocks that do not run at the same speed.
const SAFETY_MARGIN: u32 = 10;

/// The row that all servers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaderRow {
    /// Fencing number: grows with each change of the leader.
    pub(super) epoch: i64,
    /// Grows with each renewal.
    pub(super) renewals: i64,
    /// Server that leads, and its address. `None` if none leads.
    pub(crate) holder: Option<(Uuid, String)>,
    /// Time of the leases of the server that leads.
    pub(super) lease_time: Duration,
}

/// Statement that the election asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// Read the row.
    Read,
    /// Become the leader if the row is still this one.
    TakeOver(LeaderRow),
    /// Renew the lease of this epoch.
    Renew {
        /// The epoch.
        epoch: i64,
    },
}

/// Next step of the election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Execute a statement.
    Execute(Statement),
    /// Wait for a change of the row, at most until this time.
    Wait(Time),
}

/// Present leader, as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leader {
    /// The row is to be read, because it may have changed.
    Unknown,
    /// Nobody: the last leader has resigned, or this server was the last one.
    Nobody,
    /// This server.
    Own {
        /// Fencing number.
        epoch: i64,
        /// End of the lease on the clock of this server, unless it is renewed.
        until: Time,
    },
    /// Another server. It may be gone: that shows when the row changes.
    Other {
        /// Fencing number.
        epoch: i64,
        /// Its address.
        address: String,
    },
}

/// One server's part in the election.
#[derive(Debug)]
pub(super) struct Election {
    server: Uuid,
    lease_time: Duration,
    state: State,
    /// Last epoch of this server, if it ended before its lease.
    gave_up: Option<i64>,
}

#[derive(Debug)]
enum State {
    /// The row is to be read.
    Stale,
    /// The row was seen first at this time. It may have changed meanwhile if it is not current.
    Watching {
        row: LeaderRow,
        seen: Time,
        is_current: bool,
    },
    /// This server leads. The last confirmed renewal was sent at this time.
    Leading { epoch: i64, sent: Time, renew: Time },
}

impl Election {
    pub(super) fn new(server: Uuid, lease_time: Duration) -> Self {
        Self {
            server,
            lease_time,
            state: State::Stale,
            gave_up: None,
        }
    }

    /// Next step at `now`.
    pub(super) fn step(&mut self, now: Time) -> Step {
        if let State::Leading { sent, .. } = self.state
            && now >= self.end(sent)
        {
            self.state = State::Stale;
        }
        match &self.state {
            State::Stale
            | State::Watching {
                is_current: false, ..
            } => Step::Execute(Statement::Read),
            State::Watching { row, seen, .. } => {
                let free = match &row.holder {
                    None => *seen,
                    // It gave up: another server takes over first, if there is one.
                    Some((server, _)) if *server == self.server && self.gave_up == Some(row.epoch) => {
                        self.free(row, *seen) + self.lease_time
                    }
                    // The server's own row of before: its lease has ended, and nobody else has taken over.
                    Some((server, _)) if *server == self.server => *seen,
                    Some(_) => self.free(row, *seen),
                };
                if now >= free {
                    Step::Execute(Statement::TakeOver(row.clone()))
                } else {
                    Step::Wait(free)
                }
            }
            State::Leading { epoch, sent, renew } => {
                if now >= *renew {
                    Step::Execute(Statement::Renew { epoch: *epoch })
                } else {
                    Step::Wait((*renew).min(self.end(*sent)))
                }
            }
        }
    }

    /// Present leader at `now`.
    pub(super) fn leader(&self, now: Time) -> Leader {
        match &self.state {
            State::Leading { epoch, sent, .. } if now < self.end(*sent) => Leader::Own {
                epoch: *epoch,
                until: self.end(*sent),
            },
            State::Watching { row, .. } => match &row.holder {
                Some((server, address)) if *server != self.server => Leader::Other {
                    epoch: row.epoch,
                    address: address.clone(),
                },
                _ => Leader::Nobody,
            },
            State::Leading { .. } | State::Stale => Leader::Unknown,
        }
    }

    /// Time until which a server leads, as far as this one knows.
    pub(super) fn led_until(&self) -> Option<Time> {
        match &self.state {
            State::Leading { sent, .. } => Some(self.end(*sent)),
            State::Watching { row, seen, .. } if row.holder.is_some() => Some(self.free(row, *seen)),
            State::Watching { .. } | State::Stale => None,
        }
    }

    /// Takes the row as it was read, at `now`, after the answer.
    pub(super) fn read(&mut self, now: Time, row: LeaderRow) {
        let seen = match &self.state {
            State::Watching {
                row: before, seen, ..
            } if *before == row => *seen,
            _ => now,
        };
        self.state = State::Watching {
            row,
            seen,
            is_current: true,
        };
    }

    /// Takes the outcome of [`Statement::TakeOver`]: the new epoch, if this server leads now. `sent` is the time before the
    /// statement was sent.
    pub(super) fn taken_over(&mut self, sent: Time, epoch: Option<i64>) {
        self.state = match epoch {
            Some(epoch) => self.leading(epoch, sent),
            None => State::Stale,
        };
    }

    /// Takes the outcome of [`Statement::Renew`], which was sent at `sent`.
    pub(super) fn renewed(&mut self, sent: Time, is_leader: bool) {
        match self.state {
            State::Leading { epoch, .. } if is_leader => self.state = self.leading(epoch, sent),
            _ => self.state = State::Stale,
        }
    }

    /// The row may have changed: another server renewed its lease, took over or resigned. The leader itself learns that it
    /// was deposed from its next renewal.
    pub(super) fn notified(&mut self) {
        if let State::Watching { is_current, .. } = &mut self.state {
            *is_current = false;
        }
    }

    /// The lease of this server has ended before its time: a write was refused because another server leads, or nothing could
    /// be written.
    pub(super) fn deposed(&mut self) {
        if let State::Leading { epoch, .. } = self.state {
            self.gave_up = Some(epoch);
        }
        self.state = State::Stale;
    }

    fn leading(&self, epoch: i64, sent: Time) -> State {
        State::Leading {
            epoch,
            sent,
            renew: sent + self.lease_time / RENEWALS_PER_LEASE,
        }
    }

    /// Time from which on a row that was seen first at `seen` is free, unless it changes. The longer one of two times of
    /// a lease: the servers may be configured differently.
    fn free(&self, row: &LeaderRow, seen: Time) -> Time {
        seen + self.lease_time.max(row.lease_time)
    }

    /// End of a lease whose last confirmed renewal was sent at this time.
    fn end(&self, sent: Time) -> Time {
        sent + self.lease_time.saturating_sub(self.lease_time / SAFETY_MARGIN)
    }
}

#[cfg(test)]
mod tests;
