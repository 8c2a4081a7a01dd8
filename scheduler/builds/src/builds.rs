//! Builds of a server, and the tasks that walk them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bitzel_access::Permission;
use bitzel_cas::{ActionCache, DirectoryCache, InstanceBlobStores};
use bitzel_graph::walk::{BuildConfig, BuildEvent, Driver};
use bitzel_graph::{ExecutionCalls, RemoteExecutions};
use bitzel_proto::{Digest, InstanceName, with_causes};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::build::{BuildEnd, BuildId, BuildRequest, Ending, Owner};
use crate::build_table::{Admission, BuildTable};
use crate::config::BuildsConfig;
use crate::error::BuildsError;
use crate::event_log::{EventLog, Progress, TaskCounts};
use crate::handed_over::HandedOver;
use crate::journal::{BuildJournal, RestoredBuild};
use crate::record;
use crate::results::write_results;
use crate::unrecorded_action_cache::UnrecordedActionCache;

/// Memory for decoded Directories of all builds, in bytes.
const DIRECTORY_CACHE_BYTES: u64 = 256 << 20;
/// Maximum number of graphs that are decoded at the same time: each takes memory before it is checked.
const MAX_CONCURRENT_LOADS: usize = 2;

/// Maker of the calls by which a build executes its Actions.
pub trait BuildExecutions: Send + Sync + 'static {
    /// Calls in the name and with the permissions of this owner.
    fn calls(&self, owner: &Owner) -> Arc<dyn ExecutionCalls>;
}

/// Parts of a server that its builds use.
pub struct BuildsParts {
    /// Bounds.
    pub config: BuildsConfig,
    /// Stores of the instances.
    pub blob_stores: InstanceBlobStores,
    /// Action cache.
    pub action_cache: Arc<dyn ActionCache>,
    /// Executions.
    pub executions: Arc<dyn BuildExecutions>,
    /// Journal.
    pub journal: Arc<dyn BuildJournal>,
    /// Tasks that the shutdown waits for.
    pub tasks: TaskTracker,
    /// Ends all walks. Builds go on with the next run of the server.
    pub shutdown: CancellationToken,
}

/// All builds of a server. A build goes on without clients, and after a restart: the next run of the server walks its graph
/// again, and finds what is finished.
pub struct Builds {
    parts: BuildsParts,
    directory_cache: DirectoryCache,
    loads: Semaphore,
    state: Mutex<State>,
}

struct State {
    table: BuildTable,
    /// The log and the tokens of each build of the table.
    live: HashMap<BuildId, LiveBuild>,
}

/// Part of a build that is in memory only.
#[derive(Clone)]
pub(crate) struct LiveBuild {
    pub(crate) log: Arc<EventLog>,
    /// Cancelled by whoever ends the build.
    cancel: CancellationToken,
    /// Cancelled when the build has ended, and that is durable.
    pub(crate) ended: CancellationToken,
    /// True when the build is durable. Its sender is gone if the build was refused.
    recorded: watch::Receiver<bool>,
}

/// A build at one time.
#[derive(Debug, Clone)]
pub struct BuildView {
    /// The build.
    pub id: BuildId,
    /// What was handed over.
    pub request: BuildRequest,
    /// Its end; `None` while it runs.
    pub end: Option<BuildEnd>,
    /// Numbers of finished tasks.
    pub counts: TaskCounts,
    /// Progress.
    pub progress: Progress,
}

impl Builds {
    /// Creates the builds, and goes on with those that an earlier run of the server left. Must be called within a tokio
    /// runtime.
    pub fn start(parts: BuildsParts, restored: Vec<RestoredBuild>) -> Arc<Self> {
        let builds = Arc::new(Self {
            state: Mutex::new(State {
                table: BuildTable::new(parts.config.clone()),
                live: HashMap::new(),
            }),
            directory_cache: DirectoryCache::new(DIRECTORY_CACHE_BYTES),
            loads: Semaphore::new(MAX_CONCURRENT_LOADS),
            parts,
        });
        for RestoredBuild { build, row } in restored {
            match record::decode(&row) {
                Some((request, end)) => builds.restore(build, request, end),
                None => {
                    tracing::error!(%build, "the journal has a build that cannot be read; it is left out");
                    builds.parts.journal.remove(vec![build]);
                }
            }
        }
        builds
    }

    fn restore(self: &Arc<Self>, id: BuildId, request: BuildRequest, end: Option<BuildEnd>) {
        let (recorded, live) = self.live_build(end.as_ref());
        recorded.send_replace(true);
        let is_running = end.is_none();
        {
            let mut state = self.state.lock();
            state.table.restore(id, request.clone(), end);
            state.live.insert(id, live.clone());
        }
        if is_running {
            tracing::info!(build = %id, user = request.owner.user(), "the walk of a build begins again");
            self.parts
                .tasks
                .spawn(Arc::clone(self).run(id, request, None, live));
        }
    }

    fn live_build(&self, end: Option<&BuildEnd>) -> (watch::Sender<bool>, LiveBuild) {
        let (sender, recorded) = watch::channel(false);
        let live = LiveBuild {
            log: Arc::new(match end {
                None => EventLog::new(self.parts.config.max_events.get()),
                Some(end) => EventLog::of_ended(end.counts, end.events.clone()),
            }),
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
            recorded,
        };
        if end.is_some() {
            live.ended.cancel();
        }
        (sender, live)
    }

    /// Takes a build over, and returns when that is durable. The walk goes on if the caller is gone.
    pub(crate) async fn hand_over(
        self: &Arc<Self>,
        id: BuildId,
        request: BuildRequest,
    ) -> Result<BuildView, BuildsError> {
        self.forget_expired();
        let (sender, live) = self.live_build(None);
        let admission = {
            let mut state = self.state.lock();
            if self.parts.shutdown.is_cancelled() {
                return Err(BuildsError::ShuttingDown);
            }
            let admission = state.table.admit(id, request.clone())?;
            if admission == Admission::New {
                state.live.insert(id, live.clone());
            }
            admission
        };
        match admission {
            Admission::New => {
                let starting = Arc::clone(self).begin(id, request, live, sender);
                let starting = self.parts.tasks.spawn(starting);
                starting.await.map_err(|_| BuildsError::Panicked)??;
            }
            Admission::Repeated => {
                let recorded = self.state.lock().live.get(&id).map(|live| live.recorded.clone());
                let mut recorded = recorded.ok_or(BuildsError::ShuttingDown)?;
                let waited = recorded.wait_for(|recorded| *recorded).await;
                waited.map_err(|_| BuildsError::ShuttingDown)?;
            }
        }
        self.view(id).ok_or_else(|| BuildsError::NotFound(id.to_string()))
    }

    /// Loads a build that was admitted, records it, and starts its walk.
    async fn begin(
        self: Arc<Self>,
        id: BuildId,
        request: BuildRequest,
        live: LiveBuild,
        recorded: watch::Sender<bool>,
    ) -> Result<(), BuildsError> {
        let shutdown = self.parts.shutdown.clone();
        let loaded = tokio::select! {
            loaded = self.load(&request) => loaded,
            () = shutdown.cancelled() => Err(BuildsError::ShuttingDown),
            () = live.cancel.cancelled() => Err(BuildsError::Cancelled),
        };
        let handed_over = match loaded {
            Ok(handed_over) => handed_over,
            Err(error) => {
                let mut state = self.state.lock();
                state.table.withdraw(id);
                state.live.remove(&id);
                drop(state);
                // Those who attached to it or cancel it wait for its end.
                live.ended.cancel();
                return Err(error);
            }
        };
        tokio::select! {
            () = self.parts.journal.write(id, record::encode(&request, None)) => {}
            () = shutdown.cancelled() => return Err(BuildsError::ShuttingDown),
        }
        tracing::info!(
            build = %id,
            user = request.owner.user(),
            tasks = handed_over.index.graph().tasks.len(),
            "a build was handed over"
        );
        recorded.send_replace(true);
        let tasks = self.parts.tasks.clone();
        tasks.spawn(self.run(id, request, Some(handed_over), live));
        Ok(())
    }

    async fn load(&self, request: &BuildRequest) -> Result<HandedOver, BuildsError> {
        // The semaphore is never closed.
        let _permit = self.loads.acquire().await;
        HandedOver::load(
            self.parts.blob_stores.store(&request.instance),
            request.plan,
            self.parts.config.max_graph_size.as_u64(),
            &self.directories(&request.instance),
        )
        .await
    }

    fn directories(&self, instance: &InstanceName) -> DirectoryCache {
        match self.parts.blob_stores.tenant(instance) {
            None => self.directory_cache.clone(),
            Some(tenant) => self.directory_cache.of_tenant(&tenant),
        }
    }

    /// Walks a build to its end, and records that.
    async fn run(
        self: Arc<Self>,
        id: BuildId,
        request: BuildRequest,
        handed_over: Option<HandedOver>,
        live: LiveBuild,
    ) {
        let walk = Arc::clone(&self).walk(id, request.clone(), handed_over, Arc::clone(&live.log));
        // A task of its own: a panic ends this build alone.
        let mut walk = AbortOnDropHandle::new(tokio::spawn(walk));
        let walked = tokio::select! {
            biased;
            () = self.parts.shutdown.cancelled() => return,
            () = live.cancel.cancelled() => None,
            walked = &mut walk => Some(walked.unwrap_or(Err(BuildsError::Panicked))),
        };
        drop(walk);
        let (ending, error, results) = match walked {
            None => (Ending::Cancelled, None, None),
            Some(Ok((true, results))) => (Ending::Succeeded, None, Some(results)),
            Some(Ok((false, results))) => (Ending::Failed, None, Some(results)),
            Some(Err(error)) => (Ending::Failed, Some(with_causes(&error)), None),
        };
        let end = BuildEnd {
            ending,
            at: SystemTime::now(),
            error,
            results,
            counts: live.log.state().0,
            events: live.log.kept_events(),
        };
        tracing::info!(build = %id, ?ending, error = end.error, "a build has ended");
        tokio::select! {
            () = self.parts.journal.write(id, record::encode(&request, Some(&end))) => {}
            () = self.parts.shutdown.cancelled() => return,
        }
        let log = EventLog::of_ended(end.counts, end.events.clone());
        let forgotten = {
            let mut state = self.state.lock();
            let forgotten = state.table.end(id, end);
            if let Some(live) = state.live.get_mut(&id) {
                // Who is attached reads the old one to its end.
                live.log = Arc::new(log);
            }
            state.live.retain(|id, _| !forgotten.contains(id));
            forgotten
        };
        self.parts.journal.remove(forgotten);
        live.ended.cancel();
    }

    /// Walks the graph of a build. Returns true if no task failed, with the results of the targets.
    async fn walk(
        self: Arc<Self>,
        id: BuildId,
        request: BuildRequest,
        handed_over: Option<HandedOver>,
        log: Arc<EventLog>,
    ) -> Result<(bool, Digest), BuildsError> {
        let handed_over = match handed_over {
            Some(handed_over) => handed_over,
            None => self.load(&request).await?,
        };
        let HandedOver {
            index,
            environment,
            inputs,
            keep_going,
            jobs,
            files: _lease,
        } = handed_over;
        let store = self.parts.blob_stores.store(&request.instance);
        let mut action_cache = Arc::clone(&self.parts.action_cache);
        if !request.owner.permissions.contains(Permission::ActionCacheWrite) {
            action_cache = Arc::new(UnrecordedActionCache(action_cache));
        }
        let (events, mut receiver) = mpsc::unbounded_channel();
        let executions = RemoteExecutions::with_calls(
            self.parts.executions.calls(&request.owner),
            request.instance.clone(),
            id.to_string(),
            events.clone(),
        );
        let max_jobs = self.parts.config.max_jobs.get();
        let config = BuildConfig {
            directory_cache: self.directories(&request.instance),
            instance: request.instance,
            keep_going,
            jobs: if jobs == 0 { max_jobs } else { jobs.min(max_jobs) },
            environment,
            dry_run: false,
            output: None,
            build_directory: None,
        };
        let driver = Driver::new(
            config,
            index,
            inputs,
            Arc::clone(&store),
            action_cache,
            Arc::new(executions),
            events,
        );
        let forward = async {
            while let Some(event) = receiver.recv().await {
                log.push(event);
            }
        };
        let (outcome, ()) = tokio::join!(driver.run_to_outcome(), forward);
        let outcome = outcome?;
        let results = write_results(&*store, &outcome.results).await?;
        let has_succeeded = outcome.summary.failed == 0;
        log.push(BuildEvent::Summary(outcome.summary));
        Ok((has_succeeded, results))
    }

    /// Ends a build, and waits until it has ended. One that has ended stays as it is.
    pub(crate) async fn cancel(&self, id: BuildId) -> Option<BuildView> {
        let live = self.live(id)?;
        live.cancel.cancel();
        tokio::select! {
            () = live.ended.cancelled() => {}
            () = self.parts.shutdown.cancelled() => {}
        }
        self.view(id)
    }

    /// Builds of which `visible` is true, the newest first.
    pub fn list(&self, visible: impl Fn(&BuildRequest) -> bool) -> Vec<BuildView> {
        self.forget_expired();
        let state = self.state.lock();
        let builds = state.table.newest_first().into_iter();
        builds
            .filter(|(_, entry)| visible(&entry.request))
            .filter_map(|(id, _)| state.view(id))
            .collect()
    }

    /// Finds a build among those of which `visible` is true.
    pub(crate) fn find(
        &self,
        prefix: &str,
        visible: impl Fn(&BuildRequest) -> bool,
    ) -> Result<BuildId, BuildsError> {
        self.forget_expired();
        self.state.lock().table.find(prefix, visible)
    }

    pub(crate) fn view(&self, id: BuildId) -> Option<BuildView> {
        self.state.lock().view(id)
    }

    pub(crate) fn live(&self, id: BuildId) -> Option<LiveBuild> {
        self.state.lock().live.get(&id).cloned()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.parts.shutdown
    }

    fn forget_expired(&self) {
        let expired = {
            let mut state = self.state.lock();
            let expired = state.table.expire(SystemTime::now());
            state.live.retain(|id, _| !expired.contains(id));
            expired
        };
        if !expired.is_empty() {
            self.parts.journal.remove(expired);
        }
    }
}

impl State {
    fn view(&self, id: BuildId) -> Option<BuildView> {
        let entry = self.table.get(id)?;
        let (counts, progress) = self.live.get(&id)?.log.state();
        Some(BuildView {
            id,
            request: entry.request.clone(),
            end: entry.end.clone(),
            counts,
            progress,
        })
    }
}
