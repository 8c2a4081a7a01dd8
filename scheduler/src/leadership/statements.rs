//! Statements of the election.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::election::LeaderRow;
use crate::journal::JournalError;

/// Hears of every change of the row.
pub(crate) const LISTEN: &str = "LISTEN bitzel_leader";
const READ: &str = "SELECT epoch, renewals, holder, address, lease_millis FROM bitzel_leader";
const TAKE_OVER: &str = "
WITH taken AS (
    UPDATE bitzel_leader SET epoch = epoch + 1, renewals = 0, holder = $1, address = $2, lease_millis = $3
    WHERE epoch = $4 AND renewals = $5
    RETURNING epoch
)
SELECT epoch, pg_notify('bitzel_leader', '') FROM taken";
const RENEW: &str = "
WITH renewed AS (
    UPDATE bitzel_leader SET renewals = renewals + 1 WHERE epoch = $1 AND holder = $2 RETURNING epoch
)
SELECT epoch, pg_notify('bitzel_leader', '') FROM renewed";
const RESIGN: &str = "
WITH resigned AS (
    UPDATE bitzel_leader SET renewals = renewals + 1, holder = NULL, address = NULL
    WHERE epoch = $1 AND holder = $2
    RETURNING epoch
)
SELECT epoch, pg_notify('bitzel_leader', '') FROM resigned";
const KEY: &str = "SELECT key FROM bitzel_servers_key";

/// Server that takes part in the election.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Identifier of this run of the server.
    pub(crate) server: Uuid,
    /// Address at which others reach it.
    pub(crate) address: String,
    /// Time of its leases.
    pub(crate) lease_time: Duration,
}

/// Reads the row.
pub(crate) async fn read(client: &Client) -> Result<LeaderRow, JournalError> {
    let row = client.query_one(READ, &[]).await?;
    let (holder, address): (Option<Uuid>, Option<String>) = (row.get("holder"), row.get("address"));
    Ok(LeaderRow {
        epoch: row.get("epoch"),
        renewals: row.get("renewals"),
        holder: holder.zip(address),
        lease_time: Duration::from_millis(
            u64::try_from(row.get::<_, i64>("lease_millis")).unwrap_or_default(),
        ),
    })
}

/// Makes a server the leader if the row has not changed. Returns the new epoch.
pub(crate) async fn take_over(
    client: &Client,
    row: &LeaderRow,
    candidate: &Candidate,
) -> Result<Option<i64>, JournalError> {
    let lease_millis = i64::try_from(candidate.lease_time.as_millis()).unwrap_or(i64::MAX);
    let parameters: [&(dyn ToSql + Sync); 5] = [
        &candidate.server,
        &candidate.address,
        &lease_millis,
        &row.epoch,
        &row.renewals,
    ];
    let taken = client.query_opt(TAKE_OVER, &parameters).await?;
    Ok(taken.map(|row| row.get("epoch")))
}

/// Renews the lease of a server's epoch. Returns false if it is not the present one.
pub(crate) async fn renew(client: &Client, epoch: i64, server: Uuid) -> Result<bool, JournalError> {
    Ok(client.query_opt(RENEW, &[&epoch, &server]).await?.is_some())
}

/// Ends the lease of a server's epoch, so that another server leads at once.
pub(crate) async fn resign(client: &Client, epoch: i64, server: Uuid) -> Result<(), JournalError> {
    client.query_opt(RESIGN, &[&epoch, &server]).await?;
    Ok(())
}

/// Key by which the servers prove to each other whose calls they forward.
pub(crate) async fn servers_key(client: &Client) -> Result<Vec<u8>, JournalError> {
    Ok(client.query_one(KEY, &[]).await?.get("key"))
}
