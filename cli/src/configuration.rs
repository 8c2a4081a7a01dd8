//! Configuration file of `bitzel serve`.

use std::path::{Path, PathBuf};

use bitzel_access::{AccessConfiguration, AccessTable, Limits, TlsTable};
use bitzel_cas::composition::store_configuration::{Problem, Problems, StoreConfiguration, StorePurpose};
use bitzel_cas_server::services::Chunking;
use schemars::schema_for;

use crate::command_error::CommandError;

mod mistake;
#[cfg(test)]
mod reference;
pub(crate) mod schema;
mod server_tables;
mod tables;

use schema::KeySchemas;
pub(crate) use server_tables::TenantsTable;
use server_tables::{ChunksTable, ExecutionTable, ListenTable};
use tables::Tables;

/// Valid configuration of a server.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) listen: ListenTable,
    pub(crate) execution: ExecutionTable,
    /// Stores of blobs and of results. Default: both in the server's own directory.
    pub(crate) stores: Option<(StoreConfiguration, StoreConfiguration)>,
    /// Tenants. Default: all instances share their blobs.
    pub(crate) tenants: Option<TenantsTable>,
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
        let (listen, execution): (_, Option<ExecutionTable>) =
            (tables.take("listen"), tables.take("execution"));
        let blobs: Option<StoreConfiguration> = tables.take("blobs");
        let actions: Option<StoreConfiguration> = tables.take("actions");
        let (tls, access): (Option<TlsTable>, Option<AccessTable>) =
            (tables.take("tls"), tables.take("access"));
        let limits: Limits = tables.take("limits").unwrap_or_default();
        let chunks: Option<ChunksTable> = tables.take("chunks");
        let tenants: Option<TenantsTable> = tables.take("tenants");
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
        if let Some(tenants) = &tenants {
            problems.extend(tenants.problems(blobs.as_ref()));
        }
        if has_blobs != has_actions {
            problems.push(Problem {
                key: if has_blobs { "blobs" } else { "actions" }.to_owned(),
                span: None,
                message: "[blobs] and [actions] go together".to_owned(),
                hint: Some("write both, or none for a store in the server's own directory".to_owned()),
            });
        }
        if let Some(execution) = &execution {
            let needs_certificate = tls.as_ref().is_some_and(|tls| tls.client_certificate_required);
            problems.extend(execution.journal_problems(has_blobs && has_actions, needs_certificate));
        }
        tables.finish(problems)?;
        Ok(Self {
            listen: listen.unwrap_or_default(),
            execution: execution.unwrap_or_default(),
            stores: blobs.zip(actions),
            tenants,
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
        let tenants = self.tenants.as_ref().map_or_else(String::new, |tenants| {
            format!(
                "\ntenants: {} in groups, and each other instance by itself",
                tenants.groups().count()
            )
        });
        format!("stores: {stores}\nexecution: {execution}\naccess: {access}{tenants}")
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

fn read_file(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path)
        .map_err(|error| CommandError::from(error).context(format!("cannot read {}", path.display())))
}

#[cfg(test)]
mod tests;
