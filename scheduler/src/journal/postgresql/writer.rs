//! Task that writes the records of a leader.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Shared;
use super::batch::Batch;
use super::connector::{PostgresqlConnection, PostgresqlConnector};
use crate::journal::{JournalError, RecordNumber};
use crate::operation_queue::Record;

/// Pause after a failed write.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Time that PostgreSQL has to write a batch. After that, the connection is replaced.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest time without a durable write after which a leader gives up: several attempts, with smaller and smaller batches.
const MIN_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Times of a lease after which it gives up, if those are longer.
const STALL_LEASES: u32 = 10;
/// Maximum number of records of a batch. Larger ones gain little speed, and take longer to be shown.
const MAX_BATCH_RECORDS: usize = 5_000;

/// Setting of a connection whose commits are on PostgreSQL's disk when they are reported.
pub(crate) const DURABLE_COMMITS: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Further settings of the connection. The tables are found by their keys whatever the planner guesses about their size.
const SETTINGS: &str = "
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off;
SET plan_cache_mode = force_generic_plan;";

/// Writes a batch if this server leads, and says whether it does. The lock of the leader's row is held until the end of the
/// statement, so no other server begins to lead in the middle of it.
const WRITE: &str = "
WITH leads AS MATERIALIZED (
    SELECT 1 FROM bitzel_leader WHERE epoch = $1 AND holder = $16 FOR KEY SHARE
), inserted AS (
    INSERT INTO bitzel_operations (id, operation, lease, worker, proof, attempts, outcome)
    SELECT new.id, new.operation, coalesce(new.lease, 0), coalesce(new.worker, ''), new.proof, coalesce(new.attempts, ''),
        new.outcome
    FROM leads, unnest($2::uuid[], $3::bytea[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[], $8::bytea[])
        AS new (id, operation, lease, worker, proof, attempts, outcome)
    ON CONFLICT (id) DO UPDATE SET lease = excluded.lease, worker = excluded.worker, proof = excluded.proof,
        attempts = excluded.attempts, outcome = excluded.outcome
), updated AS (
    UPDATE bitzel_operations AS kept
    SET lease = coalesce(new.lease, kept.lease), worker = coalesce(new.worker, kept.worker),
        proof = coalesce(new.proof, kept.proof),
        attempts = coalesce(new.attempts, kept.attempts), outcome = coalesce(new.outcome, kept.outcome)
    FROM leads, unnest($9::uuid[], $10::bigint[], $11::text[], $12::bytea[], $13::bytea[], $14::bytea[])
        AS new (id, lease, worker, proof, attempts, outcome)
    WHERE kept.id = new.id
), deleted AS (
    DELETE FROM bitzel_operations USING leads WHERE id = ANY ($15::uuid[])
), learnt AS (
    INSERT INTO bitzel_usage (task, usage)
    SELECT new.task, new.usage FROM leads, unnest($17::uuid[], $18::bytea[]) AS new (task, usage) WHERE new.usage IS NOT NULL
    ON CONFLICT (task) DO UPDATE SET usage = excluded.usage
), unlearnt AS (
    DELETE FROM bitzel_usage USING leads, unnest($17::uuid[], $18::bytea[]) AS new (task, usage)
    WHERE bitzel_usage.task = new.task AND new.usage IS NULL
), builds AS (
    INSERT INTO bitzel_builds (id, build)
    SELECT new.id, new.build FROM leads, unnest($19::uuid[], $20::bytea[]) AS new (id, build)
    ON CONFLICT (id) DO UPDATE SET build = excluded.build
), forgotten_builds AS (
    DELETE FROM bitzel_builds USING leads WHERE id = ANY ($21::uuid[])
)
SELECT count(*) FROM leads";

/// Writer of the records of one leader.
pub(super) struct Writer {
    pub(super) connector: PostgresqlConnector,
    pub(super) epoch: u32,
    /// The leader of that epoch.
    pub(super) server: Uuid,
    pub(super) commit_interval: Duration,
    /// Time without a durable write after which this server gives up the lead, so that another one may try.
    pub(super) stall_timeout: Duration,
    /// Cancelled by the writer when another server leads, or when nothing can be written.
    pub(super) deposed: CancellationToken,
}

/// A connection with the prepared statement.
struct Prepared {
    connection: PostgresqlConnection,
    statement: Statement,
}

/// Connection and batch size of a writer, and its progress.
struct Progress {
    prepared: Option<Prepared>,
    /// Halved after a failure and doubled after a success: a large batch may take too long, and a record that PostgreSQL
    /// refuses is found by that.
    max_records: usize,
    /// Start of the first attempt since the last success.
    stalled_since: Option<Instant>,
}

/// Time without a durable write after which a leader gives up.
pub(super) fn stall_timeout(lease_time: Duration) -> Duration {
    (lease_time * STALL_LEASES).max(MIN_STALL_TIMEOUT)
}

impl Writer {
    /// Writes batches until another server leads.
    pub(super) async fn run(self, shared: Arc<Shared>) {
        let mut progress = Progress {
            prepared: None,
            max_records: MAX_BATCH_RECORDS,
            stalled_since: None,
        };
        loop {
            shared.appended.notified().await;
            // More records gather meanwhile, and share the transaction.
            tokio::time::sleep(self.commit_interval).await;
            let (records, last) = {
                let mut pending = shared.pending.lock();
                (std::mem::take(&mut pending.records), pending.last)
            };
            let mut rest = &records[..];
            while !rest.is_empty() {
                match self.write_first(&mut progress, rest).await {
                    Ok(written) => {
                        rest = &rest[written..];
                        let durable = RecordNumber(last.0 - rest.len() as u64);
                        shared.durable.send_replace(durable);
                    }
                    Err(JournalError::Deposed) => {
                        tracing::warn!(epoch = self.epoch, "another server leads; this one stops");
                        self.deposed.cancel();
                        return;
                    }
                    Err(error) => {
                        let error = bitzel_proto::with_causes(&error);
                        let stalled = progress
                            .stalled_since
                            .map_or(Duration::ZERO, |since| since.elapsed());
                        if stalled >= self.stall_timeout {
                            tracing::error!(
                                epoch = self.epoch,
                                %error,
                                "nothing could be written to the journal for {} s; this server gives up the lead",
                                stalled.as_secs()
                            );
                            self.deposed.cancel();
                            return;
                        }
                        tracing::error!(%error, "the journal cannot be written; new Actions wait until it can");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Writes the first ones of the records, and returns their number. One that PostgreSQL will never take counts as
    /// written: it must not stop all others.
    async fn write_first(&self, progress: &mut Progress, records: &[Record]) -> Result<usize, JournalError> {
        loop {
            let (batch, size) = Batch::fold(records, progress.max_records);
            let started = Instant::now();
            let written = self.write(&mut progress.prepared, &batch).await;
            match written {
                Ok(()) => {}
                Err(JournalError::Deposed) => return Err(JournalError::Deposed),
                Err(error) if is_refused(&error) && size == 1 => {
                    let record = batch.identifier();
                    let error = bitzel_proto::with_causes(&error);
                    tracing::error!(
                        record,
                        error,
                        "PostgreSQL refuses a record of the journal; it is left out, and what it is of may run again after a \
                         change of the leader (report this as a bug of bitzel, with this line)"
                    );
                }
                Err(error) => {
                    progress.max_records = (size / 2).max(1);
                    if is_refused(&error) {
                        continue;
                    }
                    // The batch is written once more, which changes nothing if it was written.
                    progress.prepared = None;
                    progress.stalled_since.get_or_insert(started);
                    return Err(error);
                }
            }
            progress.max_records = (progress.max_records * 2).min(MAX_BATCH_RECORDS);
            progress.stalled_since = None;
            return Ok(size);
        }
    }

    async fn write(&self, prepared: &mut Option<Prepared>, batch: &Batch) -> Result<(), JournalError> {
        let ready = match prepared {
            Some(ready) => ready,
            None => prepared.insert(prepare(self.connector.connect().await?).await?),
        };
        let writing = write(
            &ready.connection.client,
            &ready.statement,
            self.epoch,
            &self.server,
            batch,
        );
        let written = tokio::time::timeout(WRITE_TIMEOUT, writing).await;
        if written.unwrap_or(Err(JournalError::NoAnswer))? {
            Ok(())
        } else {
            Err(JournalError::Deposed)
        }
    }
}

/// True if PostgreSQL refuses the data itself (SQLSTATE classes 22 and 23, such as a text that its encoding does not have), so
/// that the same data will be refused again.
fn is_refused(error: &JournalError) -> bool {
    let JournalError::Postgresql(error) = error else {
        return false;
    };
    let code = error.code().map(tokio_postgres::error::SqlState::code);
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

async fn prepare(connection: PostgresqlConnection) -> Result<Prepared, JournalError> {
    connection.client.batch_execute(DURABLE_COMMITS).await?;
    connection.client.batch_execute(SETTINGS).await?;
    let statement = connection.client.prepare(WRITE).await?;
    Ok(Prepared {
        connection,
        statement,
    })
}

/// Writes a batch. Returns false if this server does not lead.
async fn write(
    client: &Client,
    statement: &Statement,
    epoch: u32,
    server: &Uuid,
    batch: &Batch,
) -> Result<bool, JournalError> {
    let Batch {
        new,
        changed,
        deleted,
        usage,
        builds,
        build_rows,
        forgotten_builds,
    } = batch;
    let epoch = i64::from(epoch);
    let parameters: [&(dyn ToSql + Sync); 21] = [
        &epoch,
        &new.ids,
        &new.operations,
        &new.leases,
        &new.workers,
        &new.proofs,
        &new.attempts,
        &new.outcomes,
        &changed.ids,
        &changed.leases,
        &changed.workers,
        &changed.proofs,
        &changed.attempts,
        &changed.outcomes,
        deleted,
        server,
        &usage.tasks,
        &usage.uses,
        builds,
        build_rows,
        forgotten_builds,
    ];
    let leads: i64 = client.query_one(statement, &parameters).await?.get(0);
    Ok(leads == 1)
}
