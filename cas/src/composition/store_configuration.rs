//! Configuration of stores and action caches, as written in a file.
//!
//! Each table has one key, the kind; a decorator has tables for the stores below it:
//!
//! ```toml
//! [blobs.tiered.fast.disk]
//! directory = "/var/lib/bitzel/blobs"
//! size = "200GiB"
//! [blobs.tiered.slow.s3]
//! bucket = "builds"
//! ```
//!
//! One type serves blobs and results alike; [`Problems`] names the kinds that make sense for only one of them.
//!
//! The doc comments of these types are the text of `docs/configuration-reference.md`.

mod problems;
pub mod schema;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

pub use problems::{Problem, Problems, StorePurpose};

use schema::{DurationText, SizeText};

/// Default of [`DiskTable::free_space`], in bytes.
pub const DEFAULT_FREE_SPACE: u64 = 1 << 30;

/// A store of blobs, or an action cache: a table with one key, its kind.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreConfiguration {
    /// Memory of this process, without a size limit. For tests and trials.
    Memory {},
    /// A directory on this machine.
    Disk(DiskTable),
    /// Another server of the Remote Execution API, for example bazel-remote, Buildbarn or bitzel.
    Grpc(GrpcTable),
    /// A server of Bazel's HTTP cache protocol.
    Http(HttpTable),
    /// A bucket of Amazon S3 or of a compatible server.
    S3(S3Table),
    /// Checks the digest of every blob that is read or written. For blobs only.
    Verifying(InnerTable),
    /// A fast store in front of a slow one. The slow one is authoritative.
    Tiered(TieredTable),
    /// Refuses writes.
    ReadOnly(InnerTable),
    /// Remembers which blobs exist in the store below. For blobs only.
    ExistenceCaching(ExistenceCachingTable),
    /// Distributes digests over several stores.
    Sharded(ShardedTable),
    /// Two stores with the same content.
    Mirrored(MirroredTable),
    /// Records metrics of the store below.
    Metered(MeteredTable),
    /// Limits the time that a call may take.
    Deadline(DeadlineTable),
}

/// `disk`: a directory on this machine.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskTable {
    /// Directory of the store, which nothing else may use. Relative paths start at the configuration file.
    #[schemars(with = "PathBuf", example = &"/var/lib/bitzel/blobs")]
    pub directory: Spanned<PathBuf>,
    /// Space that blobs may take on disk. Required for blobs, ignored for results.
    #[schemars(with = "Option<SizeText>")]
    pub size: Option<ByteSize>,
    /// Space that stays free on the disk, whoever uses it.
    #[serde(default = "free_space")]
    #[schemars(with = "SizeText", extend("default" = "1GiB", "examples" = ["5GiB"]))]
    pub free_space: ByteSize,
    /// Compresses blobs where that saves space.
    #[serde(default)]
    pub compress: bool,
    /// Maximum number of results. Ignored for blobs.
    #[serde(default = "max_results")]
    pub max_results: u64,
}

/// `grpc`: another server of the Remote Execution API.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcTable {
    /// Address of the server: `grpc://host:port`, `grpcs://host:port` with TLS, or `unix:/path`.
    #[schemars(with = "String", example = &"grpcs://cache.example:443")]
    pub endpoint: Spanned<String>,
    /// Instance name that blobs are stored under. Results keep the instance name of the request.
    #[serde(default)]
    pub instance: String,
    /// Compresses transfers if the server offers it.
    #[serde(default)]
    pub compression: bool,
    /// PEM file of the certificate authorities to trust. Default: those of the system.
    pub tls_ca: Option<PathBuf>,
    /// PEM file of the client certificate. Needs `tls_key`.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of the private key of `tls_certificate`.
    pub tls_key: Option<PathBuf>,
    /// File with a bearer token. It is read again when it changes.
    pub token_file: Option<PathBuf>,
}

/// `http`: a server of Bazel's HTTP cache protocol.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpTable {
    /// Address of the cache, above `/cas/` and `/ac/`: `http://host:port/path` or `https://…`.
    #[schemars(with = "String", example = &"https://cache.example/bitzel")]
    pub url: Spanned<String>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
}

/// `s3`: a bucket. The credentials come from the environment, as for the AWS command line.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Table {
    /// Name of an existing bucket.
    #[schemars(example = &"builds")]
    pub bucket: String,
    /// Prefix of all keys.
    #[serde(default)]
    pub prefix: String,
    /// Address of a server other than Amazon's: `http://host:port` or `https://…`.
    #[schemars(with = "Option<String>", example = &"https://minio.example:9000")]
    pub endpoint: Option<Spanned<String>>,
    /// Region of the bucket. Default: that of the environment.
    #[schemars(example = &"eu-central-1")]
    pub region: Option<String>,
    /// Age at which an object that is in use is written again, so that lifecycle rules of the bucket do not delete it.
    /// Default: never.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<DurationText>", extend("examples" = ["7d"]))]
    pub renew_after: Option<Duration>,
}

/// A decorator without settings of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InnerTable {
    /// The store below.
    pub inner: Box<StoreConfiguration>,
}

/// `tiered`: a fast store in front of a slow one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TieredTable {
    /// Store that is read first. Reads from the slow store fill it.
    pub fast: Box<StoreConfiguration>,
    /// Authoritative store: what it has counts.
    pub slow: Box<StoreConfiguration>,
    /// Acknowledges writes before the slow store has them. Default: writes wait for both stores. For blobs only.
    pub write_back: Option<WriteBackTable>,
}

/// `tiered.write_back`: a queue of writes to the slow store. It survives a restart.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteBackTable {
    /// Directory of the queue, on the disk of the fast store.
    #[schemars(with = "PathBuf", example = &"/var/lib/bitzel/queue")]
    pub directory: Spanned<PathBuf>,
    /// Maximum number of blobs in the queue.
    #[serde(default = "write_back_blobs")]
    pub max_blobs: usize,
    /// Maximum size of all blobs in the queue. At most half of the fast store.
    #[schemars(with = "SizeText")]
    pub max_size: Spanned<ByteSize>,
    /// Maximum number of concurrent writes to the slow store.
    #[serde(default = "write_back_concurrency")]
    pub concurrency: usize,
}

/// `existence_caching`: remembers which blobs exist.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExistenceCachingTable {
    /// The store below.
    pub inner: Box<StoreConfiguration>,
    /// Time after which the store below is asked again.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_age: Duration,
    /// Maximum number of digests to remember.
    #[schemars(example = 1_000_000)]
    pub max_entries: NonZeroUsize,
}

/// `sharded`: several stores, each for a part of the digests.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardedTable {
    /// The shards, at least one.
    #[schemars(with = "Vec<ShardTable>")]
    pub shards: Spanned<Vec<ShardTable>>,
}

/// `sharded.shards`: one shard.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardTable {
    /// Unique name. Together with a digest it decides which shard keeps the blob, so a changed name moves blobs.
    #[schemars(with = "String", example = &"rack-1")]
    pub name: Spanned<String>,
    /// Share of the digests, relative to the other shards.
    #[serde(default = "weight")]
    pub weight: u32,
    /// The store of this shard.
    pub store: StoreConfiguration,
}

/// `mirrored`: two stores with the same content.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirroredTable {
    /// The first store.
    pub one: Box<StoreConfiguration>,
    /// The second store.
    pub other: Box<StoreConfiguration>,
    /// Accepts writes while one of the stores is down. Default: such writes fail.
    #[serde(default)]
    pub degrade: bool,
}

/// `metered`: metrics of one store.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeteredTable {
    /// Value of the label `store` (blobs) or `cache` (results) in the metrics.
    #[schemars(example = &"bucket")]
    pub name: String,
    /// The store below.
    pub inner: Box<StoreConfiguration>,
}

/// `deadline`: limits the time that a call may take.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadlineTable {
    /// The store below.
    pub inner: Box<StoreConfiguration>,
    /// Limit of a call that transfers no stream.
    #[serde(with = "humantime_serde", default = "deadline")]
    #[schemars(with = "DurationText", extend("default" = "1m"))]
    pub call: Duration,
    /// Limit of a pause within a stream.
    #[serde(with = "humantime_serde", default = "deadline")]
    #[schemars(with = "DurationText", extend("default" = "1m"))]
    pub progress: Duration,
}

impl StoreConfiguration {
    /// A disk store of at most `size` bytes with the defaults of everything else.
    pub fn disk(directory: PathBuf, size: u64) -> Self {
        Self::Disk(DiskTable {
            directory: Spanned::new(0..0, directory),
            size: Some(ByteSize::b(size)),
            free_space: free_space(),
            compress: false,
            max_results: max_results(),
        })
    }

    /// The disk store that is read first, if any. Its `free_space` binds everything else on that disk too.
    pub fn first_disk(&self) -> Option<&DiskTable> {
        match self {
            Self::Disk(table) => Some(table),
            _ => self
                .children()
                .into_iter()
                .find_map(|(_, child)| child.first_disk()),
        }
    }

    /// Kinds of this store and of those below it: `tiered(disk, s3)`.
    pub fn kinds(&self) -> String {
        let below: Vec<String> = self.children().iter().map(|(_, child)| child.kinds()).collect();
        match below.as_slice() {
            [] => self.kind().to_owned(),
            below => format!("{}({})", self.kind(), below.join(", ")),
        }
    }

    /// True if no blob can be written, because this store or one that has to take it refuses writes.
    pub fn is_read_only(&self) -> bool {
        let mut children = self.children().into_iter();
        matches!(self, Self::ReadOnly(_))
            // The fast store of a tier is a cache, which need not take writes.
            || children.any(|(name, child)| name != "fast" && child.is_read_only())
    }

    /// The key of this kind in a configuration file.
    pub(super) fn kind(&self) -> &'static str {
        self.kind_and_children().0
    }

    /// The stores below this one in the order of look-ups, each with its key within the table of this one.
    pub(super) fn children(&self) -> Vec<(String, &Self)> {
        self.kind_and_children().1
    }

    /// The key of this kind, and the stores below this one: the only match over all kinds besides that of
    /// [`StoreFactory`](crate::composition::store_factory::StoreFactory).
    fn kind_and_children(&self) -> (&'static str, Vec<(String, &Self)>) {
        let inner = |inner| vec![("inner".to_owned(), inner)];
        match self {
            Self::Memory {} => ("memory", vec![]),
            Self::Disk(_) => ("disk", vec![]),
            Self::Grpc(_) => ("grpc", vec![]),
            Self::Http(_) => ("http", vec![]),
            Self::S3(_) => ("s3", vec![]),
            Self::Verifying(table) => ("verifying", inner(&*table.inner)),
            Self::Tiered(table) => {
                let children = vec![("fast".into(), &*table.fast), ("slow".into(), &*table.slow)];
                ("tiered", children)
            }
            Self::ReadOnly(table) => ("read_only", inner(&*table.inner)),
            Self::ExistenceCaching(table) => ("existence_caching", inner(&*table.inner)),
            Self::Sharded(table) => {
                let shards = table.shards.get_ref().iter().enumerate();
                let children = shards.map(|(index, shard)| (format!("shards[{index}].store"), &shard.store));
                ("sharded", children.collect())
            }
            Self::Mirrored(table) => {
                let children = vec![("one".into(), &*table.one), ("other".into(), &*table.other)];
                ("mirrored", children)
            }
            Self::Metered(table) => ("metered", inner(&*table.inner)),
            Self::Deadline(table) => ("deadline", inner(&*table.inner)),
        }
    }
}

fn free_space() -> ByteSize {
    ByteSize::b(DEFAULT_FREE_SPACE)
}

fn max_results() -> u64 {
    1_000_000
}

fn write_back_blobs() -> usize {
    100_000
}

fn write_back_concurrency() -> usize {
    8
}

fn weight() -> u32 {
    1
}

fn deadline() -> Duration {
    Duration::from_mins(1)
}

#[cfg(test)]
mod tests;
