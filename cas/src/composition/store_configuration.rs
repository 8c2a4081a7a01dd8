//! How stores and action caches are put together, as it is written in a file.
//!
//! Each table has one key, the kind; a kind that stands above others has tables for them:
//!
//! ```toml
//! [blobs.tiered.fast.disk]
//! directory = "/var/lib/bitzel/blobs"
//! size = "200GiB"
//! [blobs.tiered.slow.s3]
//! bucket = "builds"
//! ```
//!
//! One type serves blobs and results alike; [`Problems`] names the kinds that mean nothing for the one or the other.

mod problems;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

pub use problems::{Problem, Problems, Use};

/// What stays free on a disk where nothing else is written, in bytes.
pub const DEFAULT_FREE_SPACE: u64 = 1 << 30;

/// A store, or an action cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreConfiguration {
    /// In this process's memory, without a limit: for tests and trials.
    Memory {},
    /// In a directory of this machine.
    Disk(DiskTable),
    /// In another server of the Remote Execution API.
    Grpc(GrpcTable),
    /// In a server of the HTTP cache protocol.
    Http(HttpTable),
    /// In a bucket.
    S3(S3Table),
    /// Checks digests on the way in and out.
    Verifying(InnerTable),
    /// A fast one in front of a slow one.
    Tiered(TieredTable),
    /// Takes nothing new.
    ReadOnly(InnerTable),
    /// Remembers for a while what the one behind it has.
    ExistenceCaching(ExistenceCachingTable),
    /// Several, each for a part of the digests.
    Sharded(ShardedTable),
    /// Two with the same content.
    Mirrored(MirroredTable),
    /// Counts and times what goes through.
    Metered(MeteredTable),
    /// Does not wait for ever.
    Deadline(DeadlineTable),
}

/// `disk`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTable {
    /// Its directory, which nothing else uses; relative to the file of the configuration.
    pub directory: Spanned<PathBuf>,
    /// What blobs may take on the disk. Needed for blobs.
    pub size: Option<ByteSize>,
    /// What must stay free on the disk, whoever uses it.
    #[serde(default = "free_space")]
    pub free_space: ByteSize,
    /// Whether blobs are compressed where that saves something.
    #[serde(default)]
    pub compress: bool,
    /// How many results are kept.
    #[serde(default = "max_results")]
    pub max_results: u64,
}

/// `grpc`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcTable {
    /// `grpc://host:port`, or `grpcs://` with TLS.
    pub endpoint: Spanned<String>,
    /// Instance of that server which blobs are kept under. Results go under the instance of whoever asks.
    #[serde(default)]
    pub instance: String,
    /// Whether transfers are compressed if that server offers it.
    #[serde(default)]
    pub compression: bool,
    /// PEM file of the authorities whose servers are believed.
    pub tls_ca: Option<PathBuf>,
    /// PEM file of a client certificate; needs `tls_key`.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key: Option<PathBuf>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
}

/// `http`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTable {
    /// `http://host:port/path`, or `https://`.
    pub url: Spanned<String>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
}

/// `s3`. The keys are those of the environment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Table {
    /// The bucket, which exists.
    pub bucket: String,
    /// In front of every key.
    #[serde(default)]
    pub prefix: String,
    /// A server other than Amazon's.
    pub endpoint: Option<Spanned<String>>,
    /// The region.
    pub region: Option<String>,
    /// Objects that are asked for and older are written anew, for lifecycle rules.
    #[serde(default, with = "humantime_serde")]
    pub renew_after: Option<Duration>,
}

/// What stands above one other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerTable {
    /// The one below.
    pub inner: Box<StoreConfiguration>,
}

/// `tiered`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TieredTable {
    /// Asked first, filled by reads.
    pub fast: Box<StoreConfiguration>,
    /// What counts.
    pub slow: Box<StoreConfiguration>,
    /// Writes are acknowledged before the slow one has them.
    pub write_back: Option<WriteBackTable>,
}

/// `tiered.write_back`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteBackTable {
    /// Where the queue is kept, on the disk of the fast store.
    pub directory: Spanned<PathBuf>,
    /// Blobs that may wait.
    #[serde(default = "write_back_blobs")]
    pub max_blobs: usize,
    /// Bytes that may wait.
    pub max_size: Spanned<ByteSize>,
    /// Writes to the slow store at the same time.
    #[serde(default = "write_back_concurrency")]
    pub concurrency: usize,
}

/// `existence_caching`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExistenceCachingTable {
    /// The one below.
    pub inner: Box<StoreConfiguration>,
    /// How long an answer is good for.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Answers to remember.
    pub max_entries: NonZeroUsize,
}

/// `sharded`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardedTable {
    /// The parts.
    pub shards: Spanned<Vec<ShardTable>>,
}

/// One of `sharded.shards`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardTable {
    /// Decides with the digest what this shard holds.
    pub name: Spanned<String>,
    /// Its share relative to the others'.
    #[serde(default = "weight")]
    pub weight: u32,
    /// The shard itself.
    pub store: StoreConfiguration,
}

/// `mirrored`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirroredTable {
    /// One side.
    pub one: Box<StoreConfiguration>,
    /// The other.
    pub other: Box<StoreConfiguration>,
    /// Whether writes go on with one side while the other is down.
    #[serde(default)]
    pub degrade: bool,
}

/// `metered`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeteredTable {
    /// Label in the metrics.
    pub name: String,
    /// The one below.
    pub inner: Box<StoreConfiguration>,
}

/// `deadline`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadlineTable {
    /// The one below.
    pub inner: Box<StoreConfiguration>,
    /// For calls without a stream.
    #[serde(with = "humantime_serde", default = "deadline")]
    pub call: Duration,
    /// For a stream, between signs of life.
    #[serde(with = "humantime_serde", default = "deadline")]
    pub progress: Duration,
}

impl StoreConfiguration {
    /// The store for a directory of this machine, as the command line asks for it.
    pub fn disk(directory: PathBuf, size: u64) -> Self {
        Self::Disk(DiskTable {
            directory: Spanned::new(0..0, directory),
            size: Some(ByteSize::b(size)),
            free_space: free_space(),
            compress: false,
            max_results: max_results(),
        })
    }

    /// The store on a disk that is asked first, if one is: what it leaves free is what others on that disk have to leave.
    pub fn first_disk(&self) -> Option<&DiskTable> {
        match self {
            Self::Disk(table) => Some(table),
            Self::Memory {} | Self::Grpc(_) | Self::Http(_) | Self::S3(_) => None,
            Self::Verifying(table) | Self::ReadOnly(table) => table.inner.first_disk(),
            Self::ExistenceCaching(table) => table.inner.first_disk(),
            Self::Metered(table) => table.inner.first_disk(),
            Self::Deadline(table) => table.inner.first_disk(),
            Self::Tiered(table) => table.fast.first_disk().or_else(|| table.slow.first_disk()),
            Self::Mirrored(table) => table.one.first_disk().or_else(|| table.other.first_disk()),
            Self::Sharded(table) => {
                let mut shards = table.shards.get_ref().iter();
                shards.find_map(|shard| shard.store.first_disk())
            }
        }
    }

    /// The kinds of it and of what is below it: `tiered(disk, s3)`.
    pub fn kinds(&self) -> String {
        let below = |kind: &str, inner: &[&Self]| {
            let inner: Vec<String> = inner.iter().map(|inner| inner.kinds()).collect();
            format!("{kind}({})", inner.join(", "))
        };
        match self {
            Self::Memory {} => "memory".to_owned(),
            Self::Disk(_) => "disk".to_owned(),
            Self::Grpc(_) => "grpc".to_owned(),
            Self::Http(_) => "http".to_owned(),
            Self::S3(_) => "s3".to_owned(),
            Self::Verifying(table) => below("verifying", &[&table.inner]),
            Self::Tiered(table) => below("tiered", &[&table.fast, &table.slow]),
            Self::ReadOnly(table) => below("read_only", &[&table.inner]),
            Self::ExistenceCaching(table) => below("existence_caching", &[&table.inner]),
            Self::Sharded(table) => {
                let shards: Vec<&Self> = table.shards.get_ref().iter().map(|shard| &shard.store).collect();
                below("sharded", &shards)
            }
            Self::Mirrored(table) => below("mirrored", &[&table.one, &table.other]),
            Self::Metered(table) => below("metered", &[&table.inner]),
            Self::Deadline(table) => below("deadline", &[&table.inner]),
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
