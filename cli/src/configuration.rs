//! The file of `bitzel serve --config`: one place for all that a server is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bitzel_access::{AccessConfiguration, AccessTable, Limits, TlsTable};
use bitzel_cas::composition::store_configuration::{Problem, Problems, StoreConfiguration, Use};
use bitzel_cas_server::services::Chunking;
use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use crate::command_error::CommandError;

mod tables;

use tables::Tables;

/// The tables of the file. Every one may be left out; then the command line says what it says, or its defaults do.
const TABLES: [&str; 8] = [
    "listen",
    "execution",
    "blobs",
    "actions",
    "tls",
    "access",
    "limits",
    "chunks",
];
/// Those of a file that only says who gets in.
const ACCESS_TABLES: [&str; 3] = ["tls", "access", "limits"];

/// `[chunks]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunksTable {
    /// What the chunks of large blobs have on average.
    average_size: Spanned<ByteSize>,
}

/// `[listen]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenTable {
    /// For clients and workers.
    pub(crate) grpc: Option<SocketAddr>,
    /// For clients of the HTTP cache.
    pub(crate) http: Option<SocketAddr>,
    /// For `/metrics` and probes.
    pub(crate) admin: Option<SocketAddr>,
}

/// `[execution]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecutionTable {
    /// Whether Actions are executed at all; a server without is a cache.
    #[serde(default = "enabled")]
    pub(crate) enabled: bool,
    /// Actions that this machine itself runs at the same time.
    pub(crate) jobs: Option<usize>,
    /// Where those write.
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

/// A file that was read and makes sense.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) listen: ListenTable,
    pub(crate) execution: ExecutionTable,
    /// Stores of blobs and of results; none, and the server keeps both in its own directory.
    pub(crate) stores: Option<(StoreConfiguration, StoreConfiguration)>,
    /// Who gets in; none, and everybody does, within `limits`.
    pub(crate) access: Option<AccessConfiguration>,
    /// What one caller may take from the others.
    pub(crate) limits: Limits,
    /// How large blobs are cut.
    pub(crate) chunking: Chunking,
    /// What relative paths are relative to.
    pub(crate) base: PathBuf,
}

impl Configuration {
    /// Reads a file. What is wrong with it is told at once, a line for each thing: of every table the first thing that
    /// cannot be read, and all that makes no sense.
    pub(crate) fn read(path: &Path) -> Result<Self, CommandError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| cannot_be_used(path, error.into()))?;
        Self::parse(path, &text)
    }

    /// The same for what is written in the file.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, CommandError> {
        let mut tables = Tables::parse(path, text).map_err(|lines| CommandError::new(lines.join("\n")))?;
        let names_access = tables.has("tls") || tables.has("access");
        let one_store = tables.has("blobs") != tables.has("actions");
        let (listen, execution) = (tables.take("listen"), tables.take("execution"));
        let blobs: Option<StoreConfiguration> = tables.take("blobs");
        let actions: Option<StoreConfiguration> = tables.take("actions");
        let (tls, access): (Option<TlsTable>, Option<AccessTable>) =
            (tables.take("tls"), tables.take("access"));
        let limits: Limits = tables.take("limits").unwrap_or_default();
        let chunks: Option<ChunksTable> = tables.take("chunks");
        let mut problems = Problems::default();
        if let Some(blobs) = &blobs {
            problems.look_at("blobs", blobs, Use::Blobs);
        }
        if let Some(actions) = &actions {
            problems.look_at("actions", actions, Use::Results);
        }
        let mut problems = problems.into_found();
        let chunking = chunks.map_or(Ok(Chunking::default()), |chunks| chunks.chunking());
        problems.extend(chunking.as_ref().err().cloned());
        let mut lines = tables.finish(path, &TABLES, problems);
        if one_store {
            lines.push(format!(
                "{}: [blobs] and [actions] go together; write both, or none for a store in the server's own directory",
                path.display()
            ));
        }
        if !lines.is_empty() {
            return Err(CommandError::new(lines.join("\n")));
        }
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

    /// Where the Actions of this machine write, if not in the worker's directory.
    pub(crate) fn scratch(&self) -> Option<PathBuf> {
        let scratch = self.execution.scratch.as_ref()?;
        Some(self.base.join(scratch))
    }

    /// What the file comes to, in a few lines.
    pub(crate) fn summary(&self) -> String {
        let stores = match &self.stores {
            None => "in the server's own directory".to_owned(),
            Some((blobs, actions)) => format!("blobs in {}, results in {}", blobs.kinds(), actions.kinds()),
        };
        let access = if self.access.is_some() {
            "as [tls] and [access] say"
        } else {
            "everybody"
        };
        let execution = if self.execution.enabled {
            "yes"
        } else {
            "no, only a cache"
        };
        format!("stores: {stores}\nexecution: {execution}\nlets in: {access}")
    }
}

/// Reads a file that only says who gets in.
pub(crate) fn read_access(path: &Path) -> Result<AccessConfiguration, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_be_used(path, error.into()))?;
    let mut tables = Tables::parse(path, &text).map_err(|lines| CommandError::new(lines.join("\n")))?;
    let configuration = AccessConfiguration {
        tls: tables.take("tls"),
        access: tables.take("access").unwrap_or_default(),
        limits: tables.take("limits").unwrap_or_default(),
    };
    let lines = tables.finish(path, &ACCESS_TABLES, vec![]);
    if lines.is_empty() {
        Ok(configuration)
    } else {
        Err(CommandError::new(lines.join("\n")))
    }
}

impl ChunksTable {
    fn chunking(&self) -> Result<Chunking, Problem> {
        let size = self.average_size.get_ref().as_u64();
        let average = u32::try_from(size).unwrap_or(u32::MAX);
        Chunking::new(average).map_err(|error| Problem {
            key: "chunks.average_size".to_owned(),
            place: Some(self.average_size.span()),
            what: error.to_string(),
        })
    }
}

fn cannot_be_used(path: &Path, error: CommandError) -> CommandError {
    error.context(format!("{} cannot be used", path.display()))
}

#[cfg(test)]
mod tests;
