//! Statements of the election.

use tokio_postgres::Client;
use uuid::Uuid;

use super::election::LeaderRow;
use crate::journal::JournalError;

/// Hears of every change of the row.
pub(crate) const LISTEN: &str = "LISTEN bitzel_leader";
const READ: &str = "SELECT epoch, renewals, holder, address FROM bitzel_leader";
const TAKE_OVER: &str = "
WITH taken AS (
    UPDATE bitzel_leader SET epoch = epoch + 1, renewals = 0, holder = $1, address = $2
    WHERE epoch = $3 AND renewals = $4
    RETURNING epoch
)
SELECT epoch, pg_notify('bitzel_leader', '') FROM taken";
const RENEW: &str = "
WITH renewed AS (
    UPDATE bitzel_leader SET renewals = renewals + 1 WHERE epoch = $1 RETURNING epoch
)
SELECT epoch, pg_notify('bitzel_leader', '') FROM renewed";
const RESIGN: &str = "
WITH resigned AS (
    UPDATE bitzel_leader SET renewals = renewals + 1, holder = NULL, address = NULL WHERE epoch = $1 RETURNING epoch
)
SELECT epoch, pg_notify('bitzel_leader', '') FROM resigned";
const KEY: &str = "SELECT key FROM bitzel_servers_key";

/// Reads the row.
pub(crate) async fn read(client: &Client) -> Result<LeaderRow, JournalError> {
    let row = client.query_one(READ, &[]).await?;
    let (holder, address): (Option<Uuid>, Option<String>) = (row.get("holder"), row.get("address"));
    Ok(LeaderRow {
        epoch: row.get("epoch"),
        renewals: row.get("renewals"),
        holder: holder.zip(address),
    })
}

/// Makes a server the leader if the row has not changed. Returns the new epoch.
pub(crate) async fn take_over(
    client: &Client,
    row: &LeaderRow,
    server: Uuid,
    address: &str,
) -> Result<Option<i64>, JournalError> {
    let taken = client
        .query_opt(TAKE_OVER, &[&server, &address, &row.epoch, &row.renewals])
        .await?;
    Ok(taken.map(|row| row.get("epoch")))
}

/// Renews the lease of an epoch. Returns false if it is not the present one.
pub(crate) async fn renew(client: &Client, epoch: i64) -> Result<bool, JournalError> {
    Ok(client.query_opt(RENEW, &[&epoch]).await?.is_some())
}

/// Ends the lease of an epoch, so that another server leads at once.
pub(crate) async fn resign(client: &Client, epoch: i64) -> Result<(), JournalError> {
    client.query_opt(RESIGN, &[&epoch]).await?;
    Ok(())
}

/// Key by which the servers prove to each other whose calls they forward.
pub(crate) async fn servers_key(client: &Client) -> Result<Vec<u8>, JournalError> {
    Ok(client.query_one(KEY, &[]).await?.get("key"))
}
