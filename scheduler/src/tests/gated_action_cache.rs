//! Action cache whose writes wait or fail as the test decides.

use std::collections::HashMap;

use async_trait::async_trait;
use bitzel_cas::{ActionCache, Error};
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Closed,
    Failing,
}

#[derive(Debug)]
pub(super) struct GatedActionCache {
    pub(super) gate: watch::Sender<Gate>,
    /// Number of writes that have reached the gate.
    pub(super) writes: watch::Sender<usize>,
    results: Mutex<HashMap<(InstanceName, Digest), ActionResult>>,
}

impl Default for GatedActionCache {
    fn default() -> Self {
        Self {
            gate: watch::Sender::new(Gate::Open),
            writes: watch::Sender::new(0),
            results: Mutex::default(),
        }
    }
}

impl GatedActionCache {
    pub(super) fn result(&self, action: Digest) -> Option<ActionResult> {
        let key = (InstanceName::default(), action);
        self.results.lock().get(&key).cloned()
    }
}

#[async_trait]
impl ActionCache for GatedActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        Ok(self.results.lock().get(&(instance.clone(), action)).cloned())
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.writes.send_modify(|writes| *writes += 1);
        let mut gate = self.gate.subscribe();
        let gate = *gate.wait_for(|gate| *gate != Gate::Closed).await.unwrap();
        if gate == Gate::Failing {
            return Err(Error::InvalidArgument("the cache is read-only".to_owned()));
        }
        self.results.lock().insert((instance.clone(), action), result);
        Ok(())
    }
}
