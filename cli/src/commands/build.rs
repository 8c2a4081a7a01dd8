//! `bitzel build`.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use bitzel_cas::BlobSource;
use bitzel_proto::reapi::Directory;
use bitzel_proto::{Digest, DigestFunction};
use bitzel_scheduler::build::output::place_outputs;
use bitzel_scheduler::build::{BuildConfig, BuildEvent, Driver, Metadata};
use bitzel_scheduler::front_end::{Export, LocalTree};
use bitzel_scheduler::plan::closure::TaskIndex;
use bitzel_scheduler::plan::signature::Environment;
use prost::Message as _;
use tokio::sync::mpsc;
use tracing::{Instrument as _, info_span};

use crate::arguments::BuildArguments;
use crate::command_error::CommandError;
use crate::connection::Connection;
use crate::directories::Directories;
use crate::display::{Display, summary_text};
use crate::front_end::export_graph;
use crate::worker::platform_properties;
use crate::{interrupt, last_graph};

/// Builds the targets. The exit code is 1 if a task failed.
pub(crate) async fn run(
    directories: &Directories,
    arguments: BuildArguments,
) -> Result<ExitCode, CommandError> {
    let export = tokio::select! {
        export = export_graph(directories, &arguments.metadata, arguments.target) => export?,
        () = interrupt::interrupted() => return Ok(interrupt::INTERRUPTED.into()),
    };
    let metadata = metadata(&export)?;
    let graph = export.graph;
    last_graph::save(directories, &arguments.metadata.build_dir, &graph)?;
    let environment = Environment::of_graph(&graph, platform_properties());
    let index = Arc::new(TaskIndex::new(graph)?);
    let mut connection = Connection::open(directories, &arguments.remote, arguments.jobs).await?;
    let config = BuildConfig {
        instance: connection.instance.clone(),
        keep_going: arguments.keep_going,
        jobs: connection.jobs,
        environment,
    };
    let (events, receiver) = mpsc::unbounded_channel();
    let display = Display::new(arguments.events.as_deref())?;
    let shown = tokio::spawn(display.show(receiver));
    let driver = Driver::new(
        config,
        Arc::clone(&index),
        metadata,
        Arc::clone(&connection.store),
        connection.action_cache.clone(),
        connection.channel.clone(),
        events.clone(),
    );
    let outcome = tokio::select! {
        done = driver.run().instrument(info_span!("build")) => Ok(Some(done)),
        () = interrupt::interrupted() => Ok(None),
        error = connection.server_failure() => Err(error),
    };
    let code = match outcome {
        Ok(Some((mut summary, results))) => {
            if let Some(destination) = &arguments.output {
                place_outputs(&index, &results, &*connection.store, destination).await?;
            }
            // Placing the outputs downloads them too.
            summary.bytes_uploaded = connection.store.bytes_written();
            summary.bytes_downloaded = connection.store.bytes_read();
            events.send(BuildEvent::Summary(summary.clone())).ok();
            drop(events);
            shown.await??;
            writeln!(io::stdout(), "{}", summary_text(&summary))?;
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

fn decode(tree: &LocalTree, digest: &Digest) -> Result<Directory, CommandError> {
    let bytes = tree
        .directories
        .get(digest)
        .ok_or_else(|| CommandError::new(format!("the exported graph lacks the directory {digest}")))?;
    Ok(Directory::decode(bytes.clone())?)
}

/// Converts an export for the build driver.
fn metadata(export: &Export) -> Result<Metadata, CommandError> {
    let tree = &export.metadata;
    let mut directories = HashMap::with_capacity(tree.directories.len());
    for digest in tree.directories.keys() {
        directories.insert(*digest, Arc::new(decode(tree, digest)?));
    }
    let messages = tree
        .directories
        .iter()
        .map(|(digest, bytes)| (*digest, BlobSource::Bytes(bytes.clone())));
    let files = tree
        .files
        .iter()
        .map(|(digest, path)| (*digest, BlobSource::File(path.clone())));
    debug_assert_eq!(tree.root.function(), DigestFunction::Sha256);
    Ok(Metadata {
        root: tree.root,
        directories,
        blobs: messages.chain(files).collect(),
        snapshots: export.snapshots.directory().to_owned(),
        downloads: export.downloads.clone(),
    })
}
