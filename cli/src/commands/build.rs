//! `bitzel build`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use bitzel_bitbake::BuildEnd;
use bitzel_cas::DirectoryCache;
use bitzel_graph::RemoteExecutions;
use bitzel_graph::plan::signature::Environment;
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::walk::{BuildConfig, BuildEvent, DIRECTORY_CACHE_BYTES, Driver, Executions, Summary};
use tokio::sync::mpsc;
use tracing::{Instrument as _, info_span};
use uuid::Uuid;

use crate::arguments::{BuildArguments, FetchPlace, TargetArguments};
use crate::client_fetches::ClientFetches;
use crate::command_error::CommandError;
use crate::commands::bitbake;
use crate::connection::Connection;
use crate::directories::Directories;
use crate::display::{Display, summary_text};
use crate::engine::Engine;
use crate::front_end::export_graph;
use crate::root::{RootChoice, RootedBuildFiles};
use crate::terminal::{self, TerminalExecutions};
use crate::visible_text::visible;
use crate::{console, event_handlers, hand_over, interrupt, last_graph};

/// Builds the targets. The exit code is 1 if a task failed.
pub(crate) async fn run(
    directories: &Directories,
    arguments: BuildArguments,
) -> Result<ExitCode, CommandError> {
    if let Some(bitbake_arguments) = bitbake::arguments(&arguments) {
        return bitbake::run(directories, &arguments.metadata, &bitbake_arguments).await;
    }
    refuse_cleaning(&arguments.target)?;
    let fetches_here = arguments.fetch == FetchPlace::Client && !arguments.dry_run;
    if fetches_here && arguments.detach {
        return Err(
            CommandError::new("a server cannot fetch on this machine after the client has ended").hint(
                "fetch first, with `--fetch client --runall fetch` in place of --detach, and hand the build over then: the \
                 sources are in the store",
            ),
        );
    }
    let targets_named = arguments.target.names();
    let prepare = async {
        let root = RootChoice::find(directories, &arguments.metadata, &arguments.remote).await?;
        let (front_end_root, checkout) = root.prepare(directories, &arguments.remote).await?;
        let export = export_graph(directories, &arguments.metadata, arguments.target, front_end_root).await?;
        Ok::<_, CommandError>((export, root, checkout))
    };
    let (mut export, root, checkout) = tokio::select! {
        prepared = prepare => prepared?,
        () = interrupt::interrupted() => return Ok(interrupt::INTERRUPTED.into()),
    };
    export.is_root_of_tasks = root.is_root_of_tasks();
    let mut inputs = export.build_inputs()?;
    if let Some(root) = checkout {
        inputs.files = Arc::new(RootedBuildFiles {
            inner: inputs.files,
            root,
        });
    }
    let build_events = export.build_events.filter(|_| !arguments.dry_run);
    let graph = export.graph;
    let known = last_graph::load(directories, &arguments.metadata.build_dir).ok();
    event_handlers::warn(&graph, known.as_ref());
    last_graph::save(directories, &arguments.metadata.build_dir, &graph)?;
    let index = Arc::new(TaskIndex::new(graph)?);
    let is_interactive = !arguments.dry_run && terminal::has_interactive_tasks(&index);
    if is_interactive && arguments.detach {
        return Err(
            CommandError::new("a server has no terminal for the tasks that open one")
                .hint("build them without --detach"),
        );
    }
    if is_interactive {
        terminal::check_terminal()?;
    }
    let mut connection = Connection::open(
        directories,
        &arguments.remote,
        if arguments.dry_run {
            Some(0)
        } else {
            arguments.jobs
        },
        &root.worker_identity(),
        arguments.bounds.bounds(None),
    )
    .await?;
    let build_events = build_events.map(|program| program.start()).transpose()?;
    let tasks = index.tasks().len();
    let engine = Engine::find(&connection, &arguments.remote).await?;
    let task_root = root.task_root();
    let environment = Environment::of_graph(
        index.graph(),
        engine.platform_properties(&task_root),
        task_root.clone(),
    );
    let config = BuildConfig {
        instance: connection.instance.clone(),
        dry_run: arguments.dry_run,
        output: arguments.output,
        build_directory: build_events.as_ref().map(|events| events.directory().to_owned()),
        keep_going: arguments.keep_going,
        jobs: connection.jobs,
        environment,
        directory_cache: DirectoryCache::new(DIRECTORY_CACHE_BYTES),
    };
    if arguments.detach {
        let build = hand_over::DetachedBuild {
            connection: &connection,
            index,
            inputs,
            config,
            jobs: arguments.jobs,
            targets: targets_named,
        };
        let handed_over = tokio::select! {
            handed_over = build.hand_over() => handed_over.map(|()| ExitCode::SUCCESS),
            () = interrupt::interrupted() => Ok(interrupt::INTERRUPTED.into()),
        };
        connection.close().await?;
        return handed_over;
    }
    let (events, receiver) = mpsc::unbounded_channel();
    let display = Display::new(arguments.events.as_deref(), !is_interactive)?;
    let shown = tokio::spawn(display.show(receiver));
    let executions = RemoteExecutions::new(
        connection.channel.clone(),
        connection.instance.clone(),
        Uuid::new_v4().to_string(),
        events.clone(),
    );
    let mut executions: Arc<dyn Executions> = Arc::new(executions);
    if !arguments.dry_run {
        executions = engine
            .executions(executions, &connection, &arguments.remote, &task_root)
            .await?;
    }
    if fetches_here {
        executions = Arc::new(ClientFetches::new(
            &index,
            executions,
            connection.instance.clone(),
            connection.store.clone(),
            directories,
            arguments.bounds.bounds(None),
        ));
    }
    if is_interactive {
        executions = Arc::new(TerminalExecutions::new(
            &index,
            executions,
            connection.store.clone(),
            &arguments.metadata.build_dir,
        ));
    }
    let driver = Driver::new(
        config,
        Arc::clone(&index),
        inputs,
        connection.store.clone(),
        connection.action_cache.clone(),
        executions,
        events.clone(),
    );
    let outcome = tokio::select! {
        done = driver.run().instrument(info_span!("build")) => done.map(Some).map_err(CommandError::from),
        () = interrupt::interrupted() => Ok(None),
        error = connection.server_failure() => Err(error),
    };
    if let Some(build_events) = build_events
        && let Some(end) = build_end(&outcome, tasks)
        && let Err(error) = build_events.complete(end).await
    {
        console::print(&format!(
            "WARNING: the event BuildCompleted was not fired: {error}"
        ));
    }
    let code = match outcome {
        Ok(Some(mut summary)) => {
            summary.bytes_uploaded = connection.store.bytes_written();
            summary.bytes_downloaded = connection.store.bytes_read();
            events.send(BuildEvent::Summary(summary.clone())).ok();
            drop(events);
            shown.await??;
            writeln!(io::stdout(), "{}", visible(&summary_text(&summary)))?;
            Ok(if summary.failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Ok(None) => {
            writeln!(
                io::stderr(),
                "interrupted: finished tasks are kept; run the same command to continue"
            )?;
            Ok(interrupt::INTERRUPTED.into())
        }
        Err(error) => Err(error),
    };
    connection.close().await?;
    code
}

/// End of a build for event handlers; `None` if the build could not go on.
fn build_end(outcome: &Result<Option<Summary>, CommandError>, tasks: usize) -> Option<BuildEnd> {
    let summary = outcome.as_ref().ok()?;
    Some(BuildEnd {
        tasks,
        failed: summary.as_ref().map_or(0, |summary| summary.failed),
        is_interrupted: summary.is_none(),
    })
}

/// Refuses the tasks by which BitBake deletes build directories and results: bitzel has no build directories, and others
/// share the results.
fn refuse_cleaning(target: &TargetArguments) -> Result<(), CommandError> {
    let task = target.task.as_deref().unwrap_or_default();
    if !["clean", "cleansstate", "cleanall"].contains(&task.trim_start_matches("do_")) {
        return Ok(());
    }
    let targets = target.targets.join(" ");
    let message =
        format!("there is nothing that {task} could delete: results are shared and belong to no build");
    Err(CommandError::new(message).hint(format!(
        "`bitzel build -C unpack {targets}` runs the tasks from do_unpack on again; `bitzel store gc` frees disk space"
    )))
}
