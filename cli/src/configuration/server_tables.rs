//! Tables of the configuration file that belong to the server itself.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bitzel_cas::composition::store_configuration::schema::SizeText;
use bitzel_cas::composition::store_configuration::{Problem, StoreConfiguration};
use bitzel_cas_server::services::Chunking;
use bitzel_proto::InstanceName;
use bitzel_scheduler::{ExecutionConfig, JournalConfig, JournalMedium};
use bitzel_worker::RootIdentity;
use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::bounds::BoundSettings;

/// `[listen]`: addresses of the server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenTable {
    /// Address for clients and workers (gRPC). Default: `127.0.0.1:8980`.
    #[schemars(with = "Option<String>", extend("format" = "socket-address", "examples" = ["0.0.0.0:8980"]))]
    pub(crate) grpc: Option<SocketAddr>,
    /// Address for clients of the HTTP cache protocol: Bazel, ccache, sccache. Default: none.
    #[schemars(with = "Option<String>", extend("format" = "socket-address", "examples" = ["0.0.0.0:8080"]))]
    pub(crate) http: Option<SocketAddr>,
    /// Address for `/metrics`, `/livez` and `/readyz`, without authentication. Default: none.
    #[schemars(with = "Option<String>", extend("format" = "socket-address", "examples" = ["127.0.0.1:9980"]))]
    pub(crate) admin: Option<SocketAddr>,
}

/// `[execution]`: execution of Actions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecutionTable {
    /// Enables execution. Without it, the server is a cache.
    #[serde(default = "enabled")]
    pub(crate) enabled: bool,
    /// Maximum number of concurrent Actions on this machine; 0 if all workers are on other machines. Default: the number of
    /// processors.
    #[schemars(example = 8)]
    pub(crate) jobs: Option<usize>,
    /// Directory that Actions on this machine write to. Default: the server's own directory.
    #[schemars(example = &"/dev/shm/bitzel")]
    pub(super) scratch: Option<PathBuf>,
    /// Identity of this machine's root file system, for builds that ask for one. Default: computed from its packages, as
    /// `bitzel root identity` prints it.
    #[schemars(with = "Option<String>", example = &"debian-12-farm")]
    pub(crate) root_identity: Option<RootIdentity>,
    /// Bounds of each Action on this machine.
    #[serde(default)]
    pub(crate) bounds: BoundSettings,
    /// Journal of the operation queue.
    #[serde(default)]
    pub(crate) journal: JournalConfig,
    /// Policies of the operation queue.
    #[serde(flatten)]
    pub(crate) policies: ExecutionConfig,
}

/// Bounds of the time of a lease: a shorter one ends while a busy machine is renewing it, a longer one delays everybody
/// when the leader is gone.
const LEASE_TIMES: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_mins(1);

impl ExecutionTable {
    /// Problems of the journal. `has_stores` says that the file has `[blobs]` and `[actions]`, and `needs_certificate` that
    /// servers with this configuration refuse connections without a certificate.
    pub(super) fn journal_problems(&self, has_stores: bool, needs_certificate: bool) -> Vec<Problem> {
        let problem = |key: &str, message: &str, hint: &str| Problem {
            key: format!("execution.{key}"),
            span: None,
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let mut problems = vec![];
        let is_shared = self.journal.medium == JournalMedium::Postgresql;
        match &self.journal.postgresql {
            None if is_shared => problems.push(problem(
                "journal.medium",
                "the journal in PostgreSQL needs an address",
                "add [execution.journal.postgresql] with url = \"postgresql://user@host/database\"",
            )),
            Some(_) if !is_shared => problems.push(problem(
                "journal.postgresql",
                "PostgreSQL is not the medium of the journal",
                "set execution.journal.medium = \"postgresql\", or leave the table out",
            )),
            Some(postgresql) if !LEASE_TIMES.contains(&postgresql.lease_time) => problems.push(problem(
                "journal.postgresql.lease_time",
                "the time of a lease is out of bounds",
                "write a time from 500ms to 1m",
            )),
            _ => {}
        }
        if let Some(postgresql) = self.journal.postgresql.as_ref().filter(|_| is_shared) {
            if postgresql.servers_certificate.is_some() != postgresql.servers_key.is_some() {
                problems.push(problem(
                    "journal.postgresql",
                    "servers_certificate and servers_key go together",
                    "write both, or none",
                ));
            } else if needs_certificate && postgresql.servers_certificate.is_none() {
                problems.push(problem(
                    "journal.postgresql",
                    "the scheduler that leads would refuse the calls that the others forward, because \
                     tls.client_certificate_required is true",
                    "set servers_certificate and servers_key to a certificate that tls.client_ca has signed",
                ));
            }
        }
        if is_shared && self.jobs.is_some_and(|jobs| jobs > 0) {
            problems.push(problem(
                "jobs",
                "schedulers that share a journal run no Actions themselves",
                "leave it out, and start `bitzel worker` on this machine",
            ));
        }
        if is_shared && self.enabled && !has_stores {
            problems.push(problem(
                "journal.medium",
                "schedulers that share a journal need one store for all of them",
                "add [blobs] and [actions], such as those of another `bitzel serve` by grpc",
            ));
        }
        problems
    }
}

impl Default for ExecutionTable {
    fn default() -> Self {
        Self {
            enabled: true,
            jobs: None,
            scratch: None,
            root_identity: None,
            bounds: BoundSettings::default(),
            journal: JournalConfig::default(),
            policies: ExecutionConfig::default(),
        }
    }
}

fn enabled() -> bool {
    true
}

/// `[tenants]`: instances that do not share blobs. Each instance is a tenant of its own, or belongs to a group.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TenantsTable {
    /// File with the secret that proves which tenant has which blob, at least 32 random bytes. Servers that share a store
    /// need the same. Default: `tenants.key` in the server's own directory, made at the first start.
    #[schemars(example = &"tenants.key")]
    pub(crate) key: Option<PathBuf>,
    /// Groups of instances that share their blobs.
    groups: Vec<TenantGroupTable>,
}

/// `[[tenants.groups]]`: instances that share their blobs. An instance belongs to the first group that names it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantGroupTable {
    /// Name of the tenant, written like an instance name. If it changes, the tenant has to upload its blobs again.
    #[schemars(with = "String", extend("examples" = ["team-a"]))]
    name: Spanned<String>,
    /// Instance names. `*` matches any text.
    #[schemars(with = "Vec<String>", extend("examples" = [["team-a", "team-a/*"]]))]
    instances: Spanned<Vec<String>>,
}

impl TenantsTable {
    /// Names of the groups with the patterns of their instances.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, &[String])> {
        let groups = self.groups.iter();
        groups.map(|group| {
            (
                group.name.get_ref().as_str(),
                group.instances.get_ref().as_slice(),
            )
        })
    }

    /// Values that cannot work, also together with the store of blobs.
    pub(super) fn problems(&self, blobs: Option<&StoreConfiguration>) -> Vec<Problem> {
        let together = |message: &str, hint: &str| Problem {
            key: "tenants".to_owned(),
            span: None,
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let mut problems = vec![];
        if blobs.is_some_and(StoreConfiguration::is_read_only) {
            problems.push(together(
                "the store of [blobs] is read-only, so no tenant can prove that it has a blob",
                "leave [tenants] or read_only out",
            ));
        }
        for (index, group) in self.groups.iter().enumerate() {
            let mut report = |key: &str, span, message: String, hint: &str| {
                problems.push(Problem {
                    key: format!("tenants.groups[{index}].{key}"),
                    span: Some(span),
                    message,
                    hint: Some(hint.to_owned()),
                });
            };
            let name = group.name.get_ref();
            let hint = "give each group a name of its own: blobs are kept under it";
            if name.is_empty() {
                report("name", group.name.span(), "the name is empty".to_owned(), hint);
            } else if let Err(error) = InstanceName::new(name.as_str()) {
                // The results of the server itself are under this name, as those of instances are under theirs.
                report(
                    "name",
                    group.name.span(),
                    error.to_string(),
                    "write it like an instance name",
                );
            }
            if self.groups[..index]
                .iter()
                .any(|other| other.name.get_ref() == name)
            {
                let message = format!("another group is called {name:?} too");
                report("name", group.name.span(), message, hint);
            }
            if group.instances.get_ref().is_empty() {
                let message = "the group has no instances".to_owned();
                let hint = "name instances, or leave the group out";
                report("instances", group.instances.span(), message, hint);
            }
        }
        problems
    }
}

/// `[chunks]`: chunks of large blobs, for clients that split and splice.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChunksTable {
    /// Average size of a chunk: a power of two from 1 KiB to 4 MiB. Without the table it is 512 KiB.
    #[schemars(with = "SizeText", extend("examples" = ["16KiB"]))]
    average_size: Spanned<ByteSize>,
}

impl ChunksTable {
    /// Chunking with this average size, if it is possible.
    pub(super) fn chunking(&self) -> Result<Chunking, Problem> {
        let size = self.average_size.get_ref().as_u64();
        let average = u32::try_from(size).unwrap_or(u32::MAX);
        Chunking::new(average).map_err(|error| Problem {
            key: "chunks.average_size".to_owned(),
            span: Some(self.average_size.span()),
            message: error.to_string(),
            hint: Some("write a power of two from 1KiB to 4MiB".to_owned()),
        })
    }
}
