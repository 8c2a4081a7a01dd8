//! Tables of the journal.

use tokio_postgres::Client;

use crate::journal::JournalError;

/// Version of the tables.
pub(in crate::journal) const SCHEMA_VERSION: i32 = 1;

/// Creates the tables if there are none, under a lock that other servers which start at the same time wait for. The number
/// is any that no other program in the database uses.
///
/// The leader's epoch is the key of its row. So a change of leader locks the row against the writes of the leader before,
/// which hold `FOR KEY SHARE`, and a renewal of the lease does not.
const CREATE: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(7312584160933116);
CREATE TABLE IF NOT EXISTS bitzel_schema (version integer NOT NULL, queue text NOT NULL);
CREATE TABLE IF NOT EXISTS bitzel_leader (
    epoch bigint PRIMARY KEY,
    renewals bigint NOT NULL,
    holder uuid,
    address text,
    lease_millis bigint NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS bitzel_one_leader ON bitzel_leader ((true));
CREATE TABLE IF NOT EXISTS bitzel_servers_key (key bytea NOT NULL);
CREATE TABLE IF NOT EXISTS bitzel_operations (
    id uuid PRIMARY KEY,
    operation bytea NOT NULL,
    lease bigint NOT NULL,
    worker text NOT NULL,
    proof bytea,
    attempts bytea NOT NULL,
    outcome bytea
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
INSERT INTO bitzel_schema SELECT 1, 'QUEUE' WHERE NOT EXISTS (SELECT FROM bitzel_schema);
INSERT INTO bitzel_leader SELECT 0, 0, NULL, NULL, 0 WHERE NOT EXISTS (SELECT FROM bitzel_leader);
INSERT INTO bitzel_servers_key
    SELECT sha256(convert_to(string_agg(gen_random_uuid()::text, ''), 'UTF8')) FROM generate_series(1, 4)
    HAVING NOT EXISTS (SELECT FROM bitzel_servers_key);
COMMIT;";

/// Column that tables of an earlier version lack. Servers of that version do not use it, so the version stays the same: a
/// lease that one of them records has no proof of this one, and its Action runs again after a change of leader.
const HAS_PROOF: &str = "SELECT EXISTS (SELECT FROM pg_attribute \
     WHERE attrelid = to_regclass('bitzel_operations') AND attname = 'proof' AND NOT attisdropped)";
const ADD_PROOF: &str = "ALTER TABLE bitzel_operations ADD COLUMN IF NOT EXISTS proof bytea";
/// Creates the table that came after the others, under the same lock. Servers of an earlier version do not use it.
const CREATE_USAGE: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(7312584160933116);
CREATE TABLE IF NOT EXISTS bitzel_usage (task uuid PRIMARY KEY, usage bytea NOT NULL) WITH (fillfactor = 60);
COMMIT;";
/// Creates the table of builds, which databases of earlier versions do not have. Those versions do not miss it in later
/// ones, so the version of the tables stays.
const CREATE_BUILDS: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(7312584160933116);
CREATE TABLE IF NOT EXISTS bitzel_builds (id uuid PRIMARY KEY, build bytea NOT NULL);
COMMIT;";

/// Checks that the tables have this version and are of this queue, and creates them if there are none.
pub(super) async fn prepare(client: &Client, queue: &str) -> Result<(), JournalError> {
    let version = "SELECT to_regclass('bitzel_schema') IS NOT NULL";
    let exists: bool = client.query_one(version, &[]).await?.get(0);
    if !exists {
        let create = CREATE.replace("QUEUE", &queue.replace('\'', "''"));
        client.batch_execute(&create).await?;
    }
    let row = client
        .query_one("SELECT version, queue FROM bitzel_schema", &[])
        .await?;
    let (version, found): (i32, String) = (row.get(0), row.get(1));
    if version != SCHEMA_VERSION {
        return Err(JournalError::Schema(version));
    }
    if found != queue {
        return Err(JournalError::OtherQueue);
    }
    // A look first: adding a column waits for all that use the table.
    let has_proof: bool = client.query_one(HAS_PROOF, &[]).await?.get(0);
    if !has_proof {
        client.batch_execute(ADD_PROOF).await?;
    }
    let has_usage = "SELECT to_regclass('bitzel_usage') IS NOT NULL";
    if !client.query_one(has_usage, &[]).await?.get::<_, bool>(0) {
        client.batch_execute(CREATE_USAGE).await?;
    }
    let builds = "SELECT to_regclass('bitzel_builds') IS NOT NULL";
    let exists: bool = client.query_one(builds, &[]).await?.get(0);
    if !exists {
        client.batch_execute(CREATE_BUILDS).await?;
    }
    Ok(())
}
