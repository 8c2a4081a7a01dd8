//! Errors of the journals.

use std::path::PathBuf;

use super::disk::FORMAT;
use super::postgresql::SCHEMA_VERSION;

/// Error of a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be used.
    #[error("the journal of the queue cannot be used")]
    Database(#[from] Box<redb::Error>),
    /// The file is of another version of bitzel.
    #[error("the journal of the queue has format {0}, and this version of bitzel writes format {FORMAT}")]
    Format(u64),
    /// The thread that writes could not be started.
    #[error("the thread of the journal cannot be started")]
    Thread(#[source] std::io::Error),
    /// The content was read before.
    #[error("the journal of the queue was recovered before")]
    AlreadyRecovered,
    /// The address of PostgreSQL cannot be used. The driver's message about a malformed one does not repeat it.
    #[error("execution.journal.postgresql.url is not valid: {0}")]
    Address(String),
    /// A file for the connection to PostgreSQL cannot be used.
    #[error("{path} cannot be used: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// PostgreSQL cannot be reached, or refuses a statement.
    #[error("PostgreSQL cannot be used")]
    Postgresql(#[from] tokio_postgres::Error),
    /// PostgreSQL does not answer.
    #[error("PostgreSQL does not answer")]
    NoAnswer,
    /// The tables are of another version of bitzel.
    #[error(
        "the tables of the journal have version {0}, and this version of bitzel uses version {SCHEMA_VERSION}"
    )]
    Schema(i32),
    /// The tables are of a server with other tenants: an Action that was let in under those must not run under these.
    #[error(
        "the tables of the journal are of servers with other tenants; give all servers of a group the same [tenants], and \
         new ones a database of their own"
    )]
    OtherQueue,
    /// Another server leads.
    #[error("another server leads")]
    Deposed,
}
