//! Campaign of one server: executes what the election asks for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::election::{Election, Leader, Statement, Step};
use super::forwarded_identity::ForwardedIdentities;
use super::readiness::GroupReadiness;
use super::statements::{self, Candidate};
use super::tenure::Tenure;
use crate::clock::{BootClock, Clock as _};
use crate::journal::postgresql::{DURABLE_COMMITS, PostgresqlConnection};
use crate::journal::{JournalError, PostgresqlConnector};

/// Pause after a failure of PostgreSQL.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The server that leads, as this server knows it.
#[derive(Debug, Clone, Default)]
pub(super) enum Standing {
    /// Nobody, or nobody knows.
    #[default]
    Unknown,
    /// This server.
    Leads(Arc<Tenure>),
    /// The server at this address.
    Follows {
        /// Fencing number of the leader.
        epoch: i64,
        /// Its address.
        address: String,
    },
}

impl Standing {
    /// True if this server leads by this tenure.
    pub(super) fn is(&self, tenure: &Arc<Tenure>) -> bool {
        matches!(self, Self::Leads(present) if Arc::ptr_eq(present, tenure))
    }
}

/// Campaign of one server.
pub(super) struct Campaign {
    pub(super) connector: PostgresqlConnector,
    pub(super) candidate: Candidate,
    pub(super) election: Election,
    /// Last tenure of this server.
    pub(super) tenure: Option<Arc<Tenure>>,
    pub(super) identities: Arc<ForwardedIdentities>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) readiness: GroupReadiness,
}

impl Campaign {
    /// Takes part in the election until `stop`, then resigns.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut is_reported = false;
        while !stop.is_cancelled() {
            let Err(error) = self.run_connected(&stop, &mut is_reported).await else {
                return;
            };
            self.publish();
            if !is_reported {
                let error = bitzel_proto::with_causes(&error);
                tracing::error!(%error, "the journal in PostgreSQL cannot be used; a leader stops when its lease ends");
                is_reported = true;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Uses one connection until it fails or `stop` is cancelled.
    async fn run_connected(
        &mut self,
        stop: &CancellationToken,
        is_reported: &mut bool,
    ) -> Result<(), JournalError> {
        let mut connection = self.within_lease_time(self.connector.connect()).await?;
        self.within_lease_time(async {
            connection.client.batch_execute(statements::LISTEN).await?;
            connection.client.batch_execute(DURABLE_COMMITS).await?;
            self.identities
                .set_key(&statements::servers_key(&connection.client).await?);
            Ok(())
        })
        .await?;
        *is_reported = false;
        // What happened before LISTEN was not heard.
        self.election.notified();
        loop {
            self.note_end();
            match self.election.step(BootClock.now()) {
                Step::Execute(statement) => self.execute(&connection, statement).await?,
                Step::Wait(until) => {
                    self.publish();
                    let deposed = self.deposed();
                    tokio::select! {
                        () = BootClock.sleep_until(until) => {}
                        () = deposed.cancelled() => {}
                        notified = connection.notifications.recv() => match notified {
                            Some(()) => self.election.notified(),
                            None => return Err(JournalError::NoAnswer),
                        },
                        () = stop.cancelled() => return self.resign(&connection).await,
                    }
                }
            }
        }
    }

    async fn execute(
        &mut self,
        connection: &PostgresqlConnection,
        statement: Statement,
    ) -> Result<(), JournalError> {
        let client = &connection.client;
        let sent = BootClock.now();
        match statement {
            Statement::Read => {
                let row = self.within_lease_time(statements::read(client)).await?;
                self.election.read(BootClock.now(), row);
            }
            Statement::TakeOver(row) => {
                let taking = statements::take_over(client, &row, &self.candidate);
                let epoch = self.within_lease_time(taking).await?;
                self.election.taken_over(sent, epoch);
            }
            Statement::Renew { epoch } => {
                let renewed = self
                    .within_lease_time(statements::renew(client, epoch, self.candidate.server))
                    .await?;
                self.election.renewed(sent, renewed);
            }
        }
        self.publish();
        Ok(())
    }

    async fn resign(&mut self, connection: &PostgresqlConnection) -> Result<(), JournalError> {
        if let Leader::Own { epoch, .. } = self.election.leader(BootClock.now()) {
            self.within_lease_time(statements::resign(
                &connection.client,
                epoch,
                self.candidate.server,
            ))
            .await?;
            tracing::info!(epoch, "this server does not lead any more");
        }
        Ok(())
    }

    /// An answer that comes later than a lease ends is of no use, and its connection is suspect.
    async fn within_lease_time<T>(
        &self,
        answer: impl Future<Output = Result<T, JournalError>>,
    ) -> Result<T, JournalError> {
        let answer = tokio::time::timeout(self.candidate.lease_time, answer).await;
        answer.unwrap_or(Err(JournalError::NoAnswer))
    }

    /// Token that is cancelled when this server was deposed. One that does not lead is not.
    fn deposed(&self) -> CancellationToken {
        match (&self.tenure, &*self.standing.borrow()) {
            (Some(tenure), Standing::Leads(_)) => tenure.ended().clone(),
            _ => CancellationToken::new(),
        }
    }

    /// Tells the election that a tenure has ended: a write of the journal was refused, or the clock was faster than the answer
    /// to a renewal. It cannot go on: the leases of workers that a queue gives have numbers of its epoch, and the next queue
    /// needs another one.
    fn note_end(&mut self) {
        if let (Some(tenure), Leader::Own { epoch, .. }) =
            (&self.tenure, self.election.leader(BootClock.now()))
            && i64::from(tenure.epoch) == epoch
            && !tenure.is_valid()
        {
            tenure.ended().cancel();
            self.election.deposed();
        }
    }

    /// Publishes the present leader.
    fn publish(&mut self) {
        self.note_end();
        self.readiness.led(self.election.led_until());
        let leader = self.election.leader(BootClock.now());
        let tenure = &mut self.tenure;
        let identities = &self.identities;
        self.standing
            .send_if_modified(|standing| match (&*standing, leader) {
                (Standing::Leads(present), Leader::Own { epoch, until })
                    if i64::from(present.epoch) == epoch =>
                {
                    present.extend(until);
                    false
                }
                (_, Leader::Own { epoch, until }) => {
                    let Ok(number) = u32::try_from(epoch) else {
                        tracing::error!(epoch, "there are no more fencing numbers");
                        return false;
                    };
                    tracing::info!(epoch, "this server leads");
                    identities.set_own_epoch(epoch);
                    let new = tenure.insert(Tenure::begin(number, until));
                    *standing = Standing::Leads(new.clone());
                    true
                }
                (Standing::Follows { epoch, .. }, Leader::Other { epoch: new, .. }) if *epoch == new => false,
                (_, Leader::Other { epoch, address }) => {
                    tracing::info!(epoch, address, "another server leads");
                    *standing = Standing::Follows { epoch, address };
                    true
                }
                // Its streams go on until another leader is read: it may be well, and only PostgreSQL slow.
                (Standing::Follows { .. }, Leader::Unknown)
                | (Standing::Unknown, Leader::Unknown | Leader::Nobody) => false,
                (_, Leader::Unknown | Leader::Nobody) => {
                    *standing = Standing::Unknown;
                    true
                }
            });
    }
}
