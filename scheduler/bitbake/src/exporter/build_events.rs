//! Sandbox of the process that fires events of `BitBake`'s server.

use std::collections::BTreeMap;
use std::path::Path;

use bitzel_proto::graph::{Settings, Snapshot};

use super::Exporter;
use crate::build_events::BuildEventsProgram;
use crate::error::FrontEndError;
use crate::layers::{ExternalSource, LayerGroup};
use crate::sandbox_program::SandboxProgram;

/// Directory in the build directory that handlers see as the build directory.
const HANDLERS_DIRECTORY: &str = "bitzel-build";

impl Exporter<'_> {
    /// Creates the program that fires events. `None` if no handler waits for the end of a build.
    pub(crate) fn build_events(
        &self,
        build_directory: &Path,
        targets: &[String],
        settings: &Settings,
        groups: &[LayerGroup],
        external: &[ExternalSource],
    ) -> Result<Option<BuildEventsProgram>, FrontEndError> {
        if !settings.has_completion_handlers {
            return Ok(None);
        }
        let directory = build_directory.join(HANDLERS_DIRECTORY);
        let mut command = self.metadata_sandbox(groups, external)?;
        command.args(["--bind".as_ref(), directory.as_os_str(), "/work/build".as_ref()]);
        command.args(["--ro-bind".as_ref(), self.cache.configuration().as_os_str()]);
        command.arg("/work/build/conf");
        command.args(["--ro-bind".as_ref(), self.cache.snapshots().as_os_str()]);
        command.arg("/work/out/snapshots");
        command.args(["--ro-bind".as_ref(), self.python.path("build_events").as_os_str()]);
        command.arg("/work/build_events");
        command.args(["--chdir", "/work/build"]);
        command.args(["/usr/bin/python3", "/work/build_events/build_events.py"]);
        let base = |snapshot: &Snapshot| (snapshot.multiconfig.clone(), snapshot.sha256.clone());
        Ok(Some(BuildEventsProgram {
            program: SandboxProgram::new(&command),
            settings: serde_json::json!({
                "bases": settings.base_snapshots.iter().map(base).collect::<BTreeMap<_, _>>(),
                "targets": targets,
            }),
            directory,
        }))
    }
}
