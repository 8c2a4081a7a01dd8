//! `bitzel log`.

use std::borrow::Cow;
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
use crate::engine::Engine;
use crate::last_graph;
use crate::root::RootChoice;
use crate::visible_text::visible;

/// Prints the log of a task of the last build.
pub(crate) async fn run(
    directories: &Directories,
    arguments: LogArguments,
) -> Result<ExitCode, CommandError> {
    let graph = last_graph::load(directories, &arguments.metadata.build_dir)?;
    let root = RootChoice::find(directories, &arguments.metadata, &arguments.remote).await?;
    let index = TaskIndex::new(graph)?;
    let bounds = Bounds::default();
    let connection = Connection::open(
        directories,
        &arguments.remote,
        Some(0),
        &root.worker_identity(),
        bounds,
    )
    .await?;
    let engine = Engine::find(&connection, &arguments.remote).await?;
    let task_root = root.task_root();
    let platform = engine.platform_properties(&task_root);
    let environment = Environment::of_graph(index.graph(), platform, task_root);
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
    let log = found?;
    let log = if arguments.raw {
        Cow::Borrowed(&*log)
    } else {
        visible(&log)
    };
    io::stdout().write_all(log.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
