//! Journal in a real PostgreSQL.

use std::path::Path;

use super::*;
use crate::journal::tests::{accepted, id, leased, response, states, written};
use crate::leadership::statements::{self, Candidate};

#[path = "../../../../tests/src/postgresql.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the file is that of the end-to-end tests"
)]
mod server;

use server::PostgresqlServer;

/// Longer than the pause of a test without PostgreSQL, shorter than the wait for any answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Database of a test.
pub(crate) struct TestDatabase {
    pub(crate) server: PostgresqlServer,
    pub(crate) connector: PostgresqlConnector,
}

impl TestDatabase {
    pub(crate) fn start_or_skip() -> Option<Self> {
        let server = PostgresqlServer::start_or_skip()?;
        let connector = connector(&server.url()).unwrap();
        Some(Self { server, connector })
    }

    /// Begins to lead, whoever leads, and opens the journal. The token says that it was deposed.
    pub(crate) async fn lead(&self) -> (PostgresqlJournal, CancellationToken) {
        let connection = self.connector.connect().await.unwrap();
        let row = statements::read(&connection.client).await.unwrap();
        let candidate = Candidate {
            server: Uuid::new_v4(),
            address: "grpc://here".to_owned(),
            lease_time: Duration::from_secs(3),
        };
        let taking = statements::take_over(&connection.client, &row, &candidate);
        let epoch = taking.await.unwrap().expect("nobody else takes over");
        let epoch = u32::try_from(epoch).unwrap();
        let deposed = CancellationToken::new();
        let journal = PostgresqlJournal::with_writer(Writer {
            connector: self.connector.clone(),
            epoch,
            server: candidate.server,
            commit_interval: Duration::ZERO,
            stall_timeout: STALL_TIMEOUT,
            deposed: deposed.clone(),
        });
        (journal, deposed)
    }
}

fn config(url: &str) -> PostgresqlConfig {
    PostgresqlConfig {
        url: url.to_owned(),
        password_file: None,
        tls_ca: None,
        address: None,
        servers_ca: None,
        servers_certificate: None,
        servers_key: None,
        lease_time: Duration::from_secs(3),
    }
}

fn connector(url: &str) -> Result<PostgresqlConnector, JournalError> {
    PostgresqlConnector::new(&config(url), Path::new(""), None, "queue".to_owned())
}

#[tokio::test]
async fn a_deposed_leader_writes_nothing() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let (old, deposed) = database.lead().await;
    written(&old, vec![accepted(1, "before")]).await;
    let (new, _) = database.lead().await;
    let before = states(&new.recover().await.unwrap());
    assert_eq!(before.len(), 1);

    let refused = old.append(vec![
        accepted(2, "after"),
        leased(1, 5),
        Record::Forgotten { operation: id(1) },
    ]);
    let mut durable = old.durable();
    tokio::select! {
        () = deposed.cancelled() => {}
        written = durable.wait_for(|durable| *durable >= refused) => panic!("it counts as written: {written:?}"),
    }
    assert_eq!(states(&new.recover().await.unwrap()), before);
    assert!(matches!(old.recover().await, Err(JournalError::Deposed)));
    written(&new, vec![accepted(3, "of the new leader")]).await;
    assert_eq!(states(&new.recover().await.unwrap()).len(), 2);
}

/// As after the tables were restored from a backup: the epoch comes again, the server does not.
#[tokio::test]
async fn the_leader_is_known_by_epoch_and_server() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let (journal, deposed) = database.lead().await;
    written(&journal, vec![accepted(1, "before")]).await;
    let connection = database.connector.connect().await.unwrap();
    let client = &connection.client;
    let (server, _) = statements::read(client).await.unwrap().holder.unwrap();
    let epoch = i64::from(journal.epoch);
    assert!(statements::renew(client, epoch, server).await.unwrap());
    let other = client.batch_execute("UPDATE bitzel_leader SET holder = gen_random_uuid()");
    other.await.unwrap();
    assert!(!statements::renew(client, epoch, server).await.unwrap());
    statements::resign(client, epoch, server).await.unwrap();
    assert!(statements::read(client).await.unwrap().holder.is_some());
    journal.append(vec![accepted(2, "after")]);
    deposed.cancelled().await;
    assert_eq!(states(&journal.recover().await.unwrap()).len(), 1);
}

#[tokio::test]
async fn records_wait_while_postgresql_is_down() {
    let Some(mut database) = TestDatabase::start_or_skip() else {
        return;
    };
    let (journal, _) = database.lead().await;
    written(&journal, vec![accepted(1, "before")]).await;
    database.server.kill();
    let last = journal.append(vec![accepted(2, "meanwhile"), leased(1, 7)]);
    let mut durable = journal.durable();
    assert!(*durable.borrow() < last);
    database.server.start();
    durable.wait_for(|durable| *durable >= last).await.unwrap();
    assert_eq!(states(&journal.recover().await.unwrap()).len(), 2);
}

#[tokio::test]
async fn a_record_that_postgresql_refuses_stops_no_other() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let (journal, deposed) = database.lead().await;
    let mut records: Vec<_> = (1..=40).map(|number| accepted(number, "a")).collect();
    let refused = Record::Leased {
        operation: id(7),
        lease: crate::operation_queue::LeaseId(5),
        holder: crate::operation_queue::LeaseHolder {
            worker: "a\0b".into(),
            proof: crate::operation_queue::HolderProof::new(b""),
        },
    };
    records.insert(20, refused);
    records.push(leased(40, 6));
    written(&journal, records).await;
    written(&journal, vec![accepted(41, "later")]).await;
    let states = states(&journal.recover().await.unwrap());
    assert_eq!(states.len(), 41);
    assert!(states[&7].contains("queued"), "{}", states[&7]);
    assert!(states[&40].contains("leased 6"), "{}", states[&40]);
    assert!(!deposed.is_cancelled());
}

#[tokio::test]
async fn a_leader_that_cannot_write_gives_up() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let (journal, _) = database.lead().await;
    let connection = database.connector.connect().await.unwrap();
    let (server, _) = statements::read(&connection.client)
        .await
        .unwrap()
        .holder
        .unwrap();
    let deposed = CancellationToken::new();
    let journal = PostgresqlJournal::with_writer(Writer {
        connector: database.connector.clone(),
        epoch: journal.epoch,
        server,
        commit_interval: Duration::ZERO,
        stall_timeout: Duration::from_millis(300),
        deposed: deposed.clone(),
    });
    written(&journal, vec![accepted(1, "before")]).await;
    let drop = connection.client.batch_execute("DROP TABLE bitzel_operations");
    drop.await.unwrap();
    journal.append(vec![accepted(2, "after")]);
    tokio::time::timeout(Duration::from_secs(20), deposed.cancelled())
        .await
        .expect("it gives up");
}

#[test]
fn a_large_backlog_is_written_in_several_batches() {
    let action = |number| accepted(number, &"x".repeat(1 << 20));
    let records: Vec<_> = (1..=20).map(action).collect();
    let (batch, size) = batch::Batch::fold(&records, 1000);
    assert_eq!((batch.new.ids.len(), size), (8, 8));
    assert_eq!(batch::Batch::fold(&records, 3).1, 3);
    assert_eq!(batch::Batch::fold(&records, 0).1, 1, "it goes on");
}

#[tokio::test]
async fn a_batch_that_was_written_may_be_written_again() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let (journal, _) = database.lead().await;
    let first = vec![
        accepted(1, "one"),
        leased(1, 5),
        accepted(2, "two"),
        Record::Completed {
            operation: id(2),
            outcome: response("done"),
        },
    ];
    let second = vec![
        Record::Requeued {
            operation: id(1),
            attempts: vec!["worker w was lost".to_owned()],
        },
        Record::Forgotten { operation: id(2) },
    ];
    for records in [&first, &first] {
        written(&journal, records.clone()).await;
    }
    let after_first = states(&journal.recover().await.unwrap());
    assert!(
        after_first[&1].ends_with("leased 5 to w after []"),
        "{after_first:?}"
    );
    for records in [&second, &second] {
        written(&journal, records.clone()).await;
    }
    let after_second = states(&journal.recover().await.unwrap());
    assert_eq!(after_second.len(), 1);
    assert!(
        after_second[&1].ends_with("queued after [worker w was lost]"),
        "{after_second:?}"
    );
}

#[tokio::test]
async fn tables_of_another_version_are_refused() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let connection = database.connector.connect().await.unwrap();
    connection
        .client
        .batch_execute("UPDATE bitzel_schema SET version = 2")
        .await
        .unwrap();
    let refused = database.connector.connect().await.err().unwrap();
    assert_eq!(
        refused.to_string(),
        "the tables of the journal have version 2, and this version of bitzel uses version 1"
    );
}

#[tokio::test]
async fn tables_of_other_tenants_are_refused() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    database.connector.connect().await.unwrap();
    let other = "other's queue".to_owned();
    let config = config(&database.server.url());
    let other = PostgresqlConnector::new(&config, Path::new(""), None, other).unwrap();
    assert!(matches!(other.connect().await, Err(JournalError::OtherQueue)));
    database.connector.connect().await.unwrap();
}

#[tokio::test]
async fn servers_that_start_together_make_one_set_of_tables() {
    let Some(database) = TestDatabase::start_or_skip() else {
        return;
    };
    let connecting = (0..8).map(|_| database.connector.connect());
    let connections = futures::future::try_join_all(connecting).await.unwrap();
    let count = connections[0]
        .client
        .query_one("SELECT count(*) FROM bitzel_servers_key", &[]);
    assert_eq!(count.await.unwrap().get::<_, i64>(0), 1);
}

#[test]
fn an_operation_that_came_and_went_is_not_written() {
    let records = [
        accepted(1, "a"),
        leased(1, 5),
        Record::Forgotten { operation: id(1) },
        Record::Forgotten { operation: id(2) },
        leased(3, 6),
        accepted(4, "b"),
    ];
    let (batch, size) = batch::Batch::fold(&records, 100);
    assert_eq!(size, records.len());
    assert_eq!(batch.deleted, [id(2).0]);
    assert_eq!(batch.changed.ids, [id(3).0]);
    assert_eq!(batch.new.ids, [id(4).0]);
}

#[test]
fn a_password_in_the_address_is_refused_and_not_shown() {
    for url in [
        "postgresql://bitzel:s3cret@db.example/bitzel",
        "host=x password=s3cret",
        "host='s3cret",
    ] {
        let refused = connector(url).err().expect("it is refused");
        let text = bitzel_proto::with_causes(&refused);
        assert!(text.contains("execution.journal.postgresql.url"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
