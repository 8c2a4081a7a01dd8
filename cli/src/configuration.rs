//! Configuration file of `bitzel serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bitzel_cas::access::{AccessConfiguration, AccessTable, Limits, TlsTable};
use bitzel_cas::services::Chunking;
use bitzel_cas::store_configuration::schema::SizeText;
use bitzel_cas::store_configuration::{Problem, Problems, StoreConfiguration, StorePurpose};
use bytesize::ByteSize;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use toml::Spanned;

use crate::command_error::CommandError;

mod mistake;
#[cfg(test)]
mod reference;
pub(crate) mod schema;
mod tables;

use schema::KeySchemas;
use tables::Tables;

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
    scratch: Option<PathBuf>,
}

impl Default for ExecutionTable {
    fn default() -> Self {
        Self {
            enabled: true,
            jobs: None,
            scratch: None,
        }
    }
}

fn enabled() -> bool {
    true
}

/// `[chunks]`: chunks of large blobs, for clients that split and splice.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChunksTable {
    /// Average size of a chunk: a power of two from 1 KiB to 4 MiB. Without the table it is 512 KiB.
    #[schemars(with = "SizeText", extend("examples" = ["16KiB"]))]
    average_size: Spanned<ByteSize>,
}

/// Valid configuration of a server.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) listen: ListenTable,
    pub(crate) execution: ExecutionTable,
    /// Stores of blobs and of results. Default: both in the server's own directory.
    pub(crate) stores: Option<(StoreConfiguration, StoreConfiguration)>,
    /// Access rules. Default: full access for everybody, within `limits`.
    pub(crate) access: Option<AccessConfiguration>,
    /// Limits per connection and per identity.
    pub(crate) limits: Limits,
    /// Chunks of large blobs.
    pub(crate) chunking: Chunking,
    /// Directory that relative paths start at: that of the file.
    pub(crate) base: PathBuf,
}

impl Configuration {
    /// Reads a file. The error lists all mistakes at once: of each table the first one that makes it unreadable, and all
    /// values that cannot work.
    pub(crate) fn read(path: &Path) -> Result<Self, CommandError> {
        Self::parse(path, &read_file(path)?)
    }

    /// Parses the content of a file. See [`Self::read`].
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, CommandError> {
        let mut tables = Tables::parse(path, text, schema::of_file())?;
        let names_access = tables.has("tls") || tables.has("access");
        let (has_blobs, has_actions) = (tables.has("blobs"), tables.has("actions"));
        let (listen, execution) = (tables.take("listen"), tables.take("execution"));
        let blobs: Option<StoreConfiguration> = tables.take("blobs");
        let actions: Option<StoreConfiguration> = tables.take("actions");
        let (tls, access): (Option<TlsTable>, Option<AccessTable>) =
            (tables.take("tls"), tables.take("access"));
        let limits: Limits = tables.take("limits").unwrap_or_default();
        let chunks: Option<ChunksTable> = tables.take("chunks");
        let mut problems = Problems::default();
        if let Some(blobs) = &blobs {
            problems.check("blobs", blobs, StorePurpose::Blobs);
        }
        if let Some(actions) = &actions {
            problems.check("actions", actions, StorePurpose::Results);
        }
        let mut problems = problems.into_vec();
        let chunking = chunks.map_or(Ok(Chunking::default()), |chunks| chunks.chunking());
        problems.extend(chunking.as_ref().err().cloned());
        if has_blobs != has_actions {
            problems.push(Problem {
                key: if has_blobs { "blobs" } else { "actions" }.to_owned(),
                span: None,
                message: "[blobs] and [actions] go together".to_owned(),
                hint: Some("write both, or none for a store in the server's own directory".to_owned()),
            });
        }
        tables.finish(problems)?;
        Ok(Self {
            listen: listen.unwrap_or_default(),
            execution: execution.unwrap_or_default(),
            stores: blobs.zip(actions),
            access: names_access.then(|| AccessConfiguration {
                tls,
                access: access.unwrap_or_default(),
                limits: limits.clone(),
            }),
            limits,
            chunking: chunking.unwrap_or_default(),
            base: path.parent().map(Path::to_owned).unwrap_or_default(),
        })
    }

    /// Directory that Actions on this machine write to. Default: that of the worker.
    pub(crate) fn scratch(&self) -> Option<PathBuf> {
        let scratch = self.execution.scratch.as_ref()?;
        Some(self.base.join(scratch))
    }

    /// Summary for people, in a few lines.
    pub(crate) fn summary(&self) -> String {
        let stores = match &self.stores {
            None => "in the server's own directory".to_owned(),
            Some((blobs, actions)) => format!("blobs in {}, results in {}", blobs.kinds(), actions.kinds()),
        };
        let access = if self.access.is_some() {
            "by [tls] and [access]"
        } else {
            "full access for everybody"
        };
        let execution = if self.execution.enabled {
            "yes"
        } else {
            "no, only a cache"
        };
        format!("stores: {stores}\nexecution: {execution}\naccess: {access}")
    }
}

/// Reads a file that has only access rules: that of `--access`.
pub(crate) fn read_access(path: &Path) -> Result<AccessConfiguration, CommandError> {
    let text = read_file(path)?;
    let schemas = KeySchemas::new(schema_for!(AccessConfiguration));
    let mut tables = Tables::parse(path, &text, schemas)?;
    let configuration = AccessConfiguration {
        tls: tables.take("tls"),
        access: tables.take("access").unwrap_or_default(),
        limits: tables.take("limits").unwrap_or_default(),
    };
    tables.finish(vec![])?;
    Ok(configuration)
}

impl ChunksTable {
    fn chunking(&self) -> Result<Chunking, Problem> {
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

fn read_file(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path)
        .map_err(|error| CommandError::from(error).context(format!("cannot read {}", path.display())))
}

#[cfg(test)]
mod tests;
