//! `bitzel log`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use bitzel_graph::plan::signature::Environment;
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::walk::log::find_log;
use bitzel_worker::Bounds;

use crate::arguments::LogArguments;
use crate::command_error::CommandError;
use crate::connection::Connection;
use crate::directories::Directories;
use crate::last_graph;
use crate::worker::platform_properties;

/// Prints the log of a task of the last build.
pub(crate) async fn run(
    directories: &Directories,
    arguments: LogArguments,
) -> Result<ExitCode, CommandError> {
    let graph = last_graph::load(directories, &arguments.metadata.build_dir)?;
    let environment = Environment::of_graph(&graph, platform_properties());
    let index = TaskIndex::new(graph)?;
    let connection = Connection::open(directories, &arguments.remote, Some(0), Bounds::default()).await?;
    let cache = &*connection.action_cache;
    let found = find_log(
        &index,
        &environment,
        &*connection.store,
        cache,
        &connection.instance,
        &arguments.task,
    )
    .await;
    connection.close().await?;
    io::stdout().write_all(found?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
