//! Journal that keeps nothing: a restart forgets the queue.

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Journal, JournalError, RecordNumber, Recovered};
use crate::operation_queue::Record;

/// Journal of a server whose queue may be lost, such as the server inside a build.
#[derive(Debug)]
pub struct MemoryJournal {
    durable: watch::Sender<RecordNumber>,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self {
            durable: watch::Sender::new(RecordNumber::default()),
        }
    }
}

impl MemoryJournal {
    /// Content of every new journal. The epoch is random, so that a lease from before a restart is not valid.
    pub fn empty() -> Recovered {
        Recovered {
            epoch: uuid::Uuid::new_v4().as_fields().0,
            operations: vec![],
            usage: vec![],
            builds: vec![],
        }
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn recover(&self) -> Result<Recovered, JournalError> {
        Ok(Self::empty())
    }

    fn append(&self, _records: Vec<Record>) -> RecordNumber {
        RecordNumber::default()
    }

    fn durable(&self) -> watch::Receiver<RecordNumber> {
        self.durable.subscribe()
    }
}
