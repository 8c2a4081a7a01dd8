//! Builds in the journal of the queue.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_builds::{BuildId, BuildJournal};

use super::{DurabilityGate, Journal};
use crate::operation_queue::Record;

/// Records builds in the journal of the queue.
pub(crate) struct BuildRecords(pub(crate) Arc<dyn Journal>);

#[async_trait]
impl BuildJournal for BuildRecords {
    async fn write(&self, build: BuildId, row: Vec<u8>) {
        let record = Record::Build { build: build.0, row };
        let number = self.0.append(vec![record]);
        DurabilityGate::new(&self.0).wait(number).await;
    }

    fn remove(&self, builds: Vec<BuildId>) {
        let records = builds
            .into_iter()
            .map(|build| Record::BuildForgotten { build: build.0 });
        self.0.append(records.collect());
    }
}
