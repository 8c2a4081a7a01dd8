//! Campaign of one server: executes what the election asks for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::election::{Election, Leader, Statement, Step};
use super::forwarded_identity::ForwardedIdentities;
use super::statements;
use super::tenure::Tenure;
use crate::clock::{BootClock, Clock as _};
use crate::journal::postgresql::PostgresqlConnection;
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
    /// Identifier of this run of the server.
    pub(super) server: Uuid,
    /// Address at which others reach this server.
    pub(super) address: String,
    pub(super) lease_time: Duration,
    pub(super) election: Election,
    pub(super) identities: Arc<ForwardedIdentities>,
    pub(super) standing: watch::Sender<Standing>,
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
                tracing::error!(%error, "PostgreSQL cannot be reached; a leader stops when its lease ends");
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
            self.identities
                .set_key(&statements::servers_key(&connection.client).await?);
            Ok(())
        })
        .await?;
        *is_reported = false;
        // What happened before LISTEN was not heard.
        self.election.notified();
        loop {
            self.note_deposition();
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
                let taking = statements::take_over(client, &row, self.server, &self.address);
                let epoch = self.within_lease_time(taking).await?;
                self.election.taken_over(sent, epoch);
            }
            Statement::Renew { epoch } => {
                let renewed = self.within_lease_time(statements::renew(client, epoch)).await?;
                self.election.renewed(sent, renewed);
            }
        }
        self.publish();
        Ok(())
    }

    async fn resign(&mut self, connection: &PostgresqlConnection) -> Result<(), JournalError> {
        if let Leader::Own { epoch, .. } = self.election.leader(BootClock.now()) {
            self.within_lease_time(statements::resign(&connection.client, epoch))
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
        let answer = tokio::time::timeout(self.lease_time, answer).await;
        answer.unwrap_or(Err(JournalError::NoAnswer))
    }

    /// Tells the election that a write of the journal was refused.
    fn note_deposition(&mut self) {
        if let Standing::Leads(tenure) = &*self.standing.borrow()
            && tenure.ended().is_cancelled()
        {
            self.election.deposed();
        }
    }

    /// Token that is cancelled when this server was deposed.
    fn deposed(&self) -> CancellationToken {
        match &*self.standing.borrow() {
            Standing::Leads(tenure) => tenure.ended().clone(),
            _ => CancellationToken::new(),
        }
    }

    /// Publishes the present leader.
    fn publish(&self) {
        let leader = self.election.leader(BootClock.now());
        self.standing
            .send_if_modified(|standing| match (&*standing, leader) {
                (Standing::Leads(tenure), Leader::Own { epoch, until })
                    if i64::from(tenure.epoch) == epoch && !tenure.ended().is_cancelled() =>
                {
                    tenure.extend(until);
                    false
                }
                (_, Leader::Own { epoch, until }) => {
                    let Ok(number) = u32::try_from(epoch) else {
                        tracing::error!(epoch, "there are no more fencing numbers");
                        return false;
                    };
                    tracing::info!(epoch, "this server leads");
                    self.identities.set_own_epoch(epoch);
                    *standing = Standing::Leads(Tenure::begin(number, until));
                    true
                }
                (Standing::Follows { epoch, .. }, Leader::Other { epoch: new, .. }) if *epoch == new => false,
                (_, Leader::Other { epoch, address }) => {
                    tracing::info!(epoch, address, "another server leads");
                    *standing = Standing::Follows { epoch, address };
                    true
                }
                (Standing::Unknown, Leader::Unknown) => false,
                (_, Leader::Unknown) => {
                    *standing = Standing::Unknown;
                    true
                }
            });
    }
}
