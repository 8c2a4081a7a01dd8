//! Run of the front end with the settings of the command line and the environment.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use bitzel_bitbake::{Export, ExportRequest, FrontEndConfig, FrontEndEvent, FrontEndRoot, export};

use crate::arguments::{MetadataArguments, TargetArguments};
use crate::command_error::CommandError;
use crate::console;
use crate::directories::Directories;

/// Exports the graph of the targets in a root file system. Shows phases and messages on standard error.
pub(crate) async fn export_graph(
    directories: &Directories,
    metadata: &MetadataArguments,
    target: TargetArguments,
    root: FrontEndRoot,
) -> Result<Export, CommandError> {
    let mut config = configuration(directories, metadata)?;
    config.root = root;
    let request = ExportRequest {
        targets: target.targets,
        task: target.task,
        run_all: target.run_all,
        run_only: target.run_only,
        force: target.force,
        invalidate: target.clear_stamp,
    };
    Ok(export(&config, &request).await?)
}

/// Configuration of the front end. Its events are shown on standard error.
pub(crate) fn configuration(
    directories: &Directories,
    metadata: &MetadataArguments,
) -> Result<FrontEndConfig, CommandError> {
    let mut config = FrontEndConfig::new(metadata.build_dir.clone(), directories.exports());
    config.bitbake.clone_from(&metadata.bitbake);
    // BitBake has no use for variables that are not UTF-8.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    config.environment = std::env::vars_os()
        .filter_map(text)
        .collect::<BTreeMap<String, String>>();
    if let Some(epoch) = config.environment.get("SOURCE_DATE_EPOCH") {
        config.source_date_epoch = epoch.parse().map_err(|error| {
            CommandError::from(error)
                .context(format!("SOURCE_DATE_EPOCH={epoch} is not a time"))
                .hint("write seconds since 1970")
        })?;
    }
    let terminal = io::stderr().is_terminal();
    config.observer = Arc::new(move |event| match event {
        FrontEndEvent::Phase(phase) if terminal => {
            console::print(&format!("front end: {phase}"));
        }
        FrontEndEvent::Phase(_) => {}
        FrontEndEvent::Message(message) => {
            console::print(message);
        }
    });
    Ok(config)
}
