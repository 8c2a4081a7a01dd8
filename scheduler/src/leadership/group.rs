//! Group of servers that share a journal, as one of its members takes part in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitzel_builds::BuildsService;
use bitzel_cas::{ActionCache, InstanceBlobStores};
use bitzel_rpc::Secret;
use bitzel_rpc::endpoint::ClientCredentials;
use metrics::gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::campaign::{Campaign, Standing};
use super::election::Election;
use super::forwarded_identity::ForwardedIdentities;
use super::leader_connection::LeaderConnection;
use super::readiness::GroupReadiness;
use super::router::Router;
use super::services::{
    ForwardedScalerService, GroupBuildsService, GroupExecutionService, GroupFarmService, GroupScalerService,
    GroupWorkerQueueService,
};
use super::statements::Candidate;
use super::tenure::Tenure;
use crate::journal::{
    Journal as _, JournalError, PostgresqlConfig, PostgresqlConnector, PostgresqlJournal, Recovered,
};
use crate::{
    ExecutionConfig, ExecutionServer, ExecutionService, ExecutionTasks, FarmService, QueueGauges,
    ScalerService, SystemClock, WorkerQueueService,
};

/// Pause after a failed attempt to read the journal.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Settings of a server in a group.
pub struct GroupSettings<'a> {
    /// PostgreSQL and the group.
    pub config: &'a PostgresqlConfig,
    /// Directory that relative paths in `config` start at.
    pub base: &'a Path,
    /// Password of PostgreSQL, if no file has it.
    pub password: Option<Secret>,
    /// Name of the queue: servers with other tenants than these have another one.
    pub queue: String,
    /// Address at which the other servers reach this one.
    pub address: String,
    /// Time for which records gather before they are written together.
    pub commit_interval: Duration,
    /// Policies of the operation queue.
    pub policies: ExecutionConfig,
    /// Identities of forwarded callers, which the access layer of this server asks.
    pub identities: Arc<ForwardedIdentities>,
}

/// Role of a server in its group.
#[derive(Clone, Default)]
pub(super) enum Role {
    /// No server leads, or it is not known which.
    #[default]
    Unknown,
    /// This server leads.
    Leads(Arc<Reign>),
    /// Another server leads.
    Follows(Arc<LeaderConnection>),
}

/// The queue of a server that leads.
pub(super) struct Reign {
    pub(super) tenure: Arc<Tenure>,
    pub(super) execution: ExecutionService,
    pub(super) worker_queue: WorkerQueueService,
    pub(super) farm: FarmService,
    pub(super) builds: BuildsService,
    pub(super) scaler: ScalerService,
    gauges: QueueGauges,
}

/// Server in a group of servers that share a journal in PostgreSQL.
pub struct SchedulerGroup {
    /// Service for clients.
    pub execution: GroupExecutionService,
    /// Service for workers.
    pub worker_queue: GroupWorkerQueueService,
    /// Service for people.
    pub farm: GroupFarmService,
    /// Service for builds that the leader walks.
    pub builds: GroupBuildsService,
    /// External scaler for KEDA.
    pub scaler: GroupScalerService,
    /// External scaler for the other servers of the group.
    pub forwarded_scaler: ForwardedScalerService,
    /// Gauges of the farm.
    pub gauges: GroupGauges,
    /// Readiness of this server.
    pub readiness: GroupReadiness,
    /// Background tasks.
    pub background: GroupTasks,
}

impl SchedulerGroup {
    /// Joins the group. Must be called within a tokio runtime.
    pub fn join(
        settings: GroupSettings<'_>,
        blob_stores: impl Into<InstanceBlobStores>,
        action_cache: Arc<dyn ActionCache>,
    ) -> Result<Self, JournalError> {
        let config = settings.config;
        let connector = PostgresqlConnector::new(config, settings.base, settings.password, settings.queue)?;
        let server = Uuid::new_v4();
        let readiness = GroupReadiness::default();
        let (standing, standings) = watch::channel(Standing::default());
        let campaign = Campaign {
            connector: connector.clone(),
            candidate: Candidate {
                server,
                address: settings.address,
                lease_time: config.lease_time,
            },
            election: Election::new(server, config.lease_time),
            tenure: None,
            identities: settings.identities.clone(),
            standing,
            readiness: readiness.clone(),
        };
        let in_base = |path: Option<&PathBuf>| path.map(|path| settings.base.join(path));
        let (role, roles) = watch::channel(Role::default());
        let member = Member {
            server,
            connector,
            lease_time: config.lease_time,
            commit_interval: settings.commit_interval,
            policies: settings.policies,
            blob_stores: blob_stores.into(),
            action_cache,
            servers: ClientCredentials {
                ca: in_base(config.servers_ca.as_ref()),
                certificate: in_base(config.servers_certificate.as_ref())
                    .zip(in_base(config.servers_key.as_ref())),
                ..ClientCredentials::default()
            },
            standings,
            role,
        };
        let (shutdown, resignation) = (CancellationToken::new(), CancellationToken::new());
        let router = Router {
            role: roles.clone(),
            identities: settings.identities,
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            execution: GroupExecutionService {
                router: router.clone(),
            },
            worker_queue: GroupWorkerQueueService {
                router: router.clone(),
            },
            farm: GroupFarmService {
                router: router.clone(),
            },
            builds: GroupBuildsService {
                router: router.clone(),
            },
            scaler: GroupScalerService {
                router: router.clone(),
            },
            forwarded_scaler: ForwardedScalerService { router },
            gauges: GroupGauges { role: roles },
            readiness,
            background: GroupTasks {
                campaign: AbortOnDropHandle::new(tokio::spawn(campaign.run(resignation.clone()))),
                member: AbortOnDropHandle::new(tokio::spawn(member.run(shutdown.clone()))),
                shutdown,
                resignation,
            },
        })
    }
}

/// Task that carries out what the election has decided.
struct Member {
    server: Uuid,
    connector: PostgresqlConnector,
    lease_time: Duration,
    commit_interval: Duration,
    policies: ExecutionConfig,
    blob_stores: InstanceBlobStores,
    action_cache: Arc<dyn ActionCache>,
    /// Credentials for the other servers.
    servers: ClientCredentials,
    standings: watch::Receiver<Standing>,
    role: watch::Sender<Role>,
}

impl Member {
    async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let standing = self.standings.borrow_and_update().clone();
            match standing {
                Standing::Leads(tenure) => {
                    self.reign(&tenure, &shutdown).await;
                    if self.standings.borrow().is(&tenure) {
                        // It has ended before the election knows.
                        self.changed(&shutdown).await;
                    }
                }
                Standing::Follows { epoch, address } => {
                    let leader = LeaderConnection::new(epoch, address, self.servers.clone());
                    self.enter(Role::Follows(Arc::new(leader)));
                    self.changed(&shutdown).await;
                }
                Standing::Unknown => {
                    self.enter(Role::Unknown);
                    self.changed(&shutdown).await;
                }
            }
        }
        self.enter(Role::Unknown);
    }

    /// Waits for another standing.
    async fn changed(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            // An error means that the campaign has ended, which it does after this task.
            _ = self.standings.changed() => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn enter(&self, role: Role) {
        if let Role::Follows(leader) = self.role.send_replace(role) {
            leader.left().cancel();
        }
    }

    /// Leads until the end of the tenure, or until the shutdown.
    async fn reign(&self, tenure: &Arc<Tenure>, shutdown: &CancellationToken) {
        self.enter(Role::Unknown);
        let journal = Arc::new(PostgresqlJournal::new(
            self.connector.clone(),
            (tenure.epoch, self.server),
            self.lease_time,
            self.commit_interval,
            tenure.ended().clone(),
        ));
        let recovered = tokio::select! {
            recovered = recover(&journal, tenure) => recovered,
            () = tenure.ended().cancelled() => return,
            () = shutdown.cancelled() => return,
        };
        let operations = recovered.operations.len();
        let server = ExecutionServer::with_journal(
            self.blob_stores.clone(),
            self.action_cache.clone(),
            self.policies.clone(),
            Arc::new(SystemClock::default()),
            journal,
            recovered,
        );
        let background: ExecutionTasks = server.background;
        self.enter(Role::Leads(Arc::new(Reign {
            tenure: tenure.clone(),
            execution: server.execution,
            worker_queue: server.worker_queue,
            farm: server.farm,
            builds: server.builds,
            scaler: server.scaler,
            gauges: server.gauges,
        })));
        tracing::info!(epoch = tenure.epoch, operations, "the queue is restored");
        tokio::select! {
            () = tenure.ended().cancelled() => {
                self.enter(Role::Unknown);
                background.abandon();
            }
            () = shutdown.cancelled() => {
                background.shut_down().await;
                self.enter(Role::Unknown);
            }
        }
    }
}

/// Reads the journal, and tries again until it succeeds.
async fn recover(journal: &PostgresqlJournal, tenure: &Tenure) -> Recovered {
    loop {
        match journal.recover().await {
            Ok(recovered) => return recovered,
            Err(JournalError::Deposed) => {
                // Whoever waits for this waits for the end of the tenure too.
                tenure.ended().cancel();
                return std::future::pending().await;
            }
            Err(error) => {
                let error = bitzel_proto::with_causes(&error);
                tracing::error!(%error, "the journal of the queue cannot be read; this server tries again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Gauges of a server in a group.
#[derive(Clone)]
pub struct GroupGauges {
    role: watch::Receiver<Role>,
}

impl GroupGauges {
    /// Sets the gauges to the present values. A server that does not lead has an empty queue.
    pub fn publish(&self) {
        let role = self.role.borrow().clone();
        let (leads, follows) = match &role {
            Role::Leads(_) => (1.0, 0.0),
            Role::Follows(_) => (0.0, 1.0),
            Role::Unknown => (0.0, 0.0),
        };
        gauge!("bitzel_scheduler_leads").set(leads);
        gauge!("bitzel_scheduler_follows").set(follows);
        match role {
            Role::Leads(reign) => reign.gauges.publish(),
            _ => QueueGauges::publish_empty(),
        }
    }
}

/// Background tasks of a [`SchedulerGroup`].
#[must_use = "the tasks run until they are shut down"]
pub struct GroupTasks {
    campaign: AbortOnDropHandle<()>,
    member: AbortOnDropHandle<()>,
    shutdown: CancellationToken,
    resignation: CancellationToken,
}

impl GroupTasks {
    /// Ends the streams of clients and workers with `UNAVAILABLE`, writes the journal, and hands over to another server. It
    /// must be called before the wait for the graceful end of the gRPC server, which waits for the streams.
    pub async fn shut_down(self) {
        self.shutdown.cancel();
        let member = self.member.await;
        self.resignation.cancel();
        let campaign = self.campaign.await;
        if let Err(error) = member.and(campaign) {
            tracing::error!(%error, "a task of the scheduler failed");
        }
    }
}
