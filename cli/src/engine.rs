//! Execution service that a build uses: bitzel's own, or one of another project, for which Actions are made portable.

use std::sync::Arc;

use bitzel_graph::plan::signature::TaskRoot;
use bitzel_graph::walk::Executions;
use bitzel_graph::{PortableExecutions, PortableSettings};
use bitzel_proto::farm::GetFarmRequest;
use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_proto::reapi::GetCapabilitiesRequest;
use bitzel_proto::reapi::capabilities_client::CapabilitiesClient;
use bitzel_worker::LAUNCHER_EXECUTABLE;
use bytes::Bytes;
use tonic::Code;

use crate::arguments::RemoteArguments;
use crate::command_error::CommandError;
use crate::connection::Connection;
use crate::console;
use crate::status_hint::with_status_hint;
use crate::worker::platform_properties;

/// Type of a program header that names the dynamic linker.
const PT_INTERP: usize = 3;

/// Execution service at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A server of bitzel, whose workers know its platform properties.
    OfBitzel,
    /// Another one.
    Foreign,
}

impl Engine {
    /// Finds out which kind the server is: only those of bitzel have the service Farm, whoever may use that.
    pub(crate) async fn find(
        connection: &Connection,
        remote: &RemoteArguments,
    ) -> Result<Self, CommandError> {
        if remote.remote.is_none() {
            return Ok(Self::OfBitzel);
        }
        let mut farm = FarmClient::new(connection.channel.clone());
        match farm.get_farm(GetFarmRequest {}).await {
            Err(status) if status.code() == Code::Unimplemented => Ok(Self::Foreign),
            // Not everybody may ask, but the service is there. What else is wrong, the build itself will find.
            _ => Ok(Self::OfBitzel),
        }
    }

    /// Platform properties in the keys of results, beside the root. An engine gives the files of an image root with modes and
    /// times of its own, which a task could copy, so results do not cross to workers of bitzel, where they are those of
    /// the image.
    pub(crate) fn platform_properties(self, root: &TaskRoot) -> Vec<(String, String)> {
        let mut properties = platform_properties();
        if self == Self::Foreign && matches!(root, TaskRoot::Image(_)) {
            properties.push(("root-attributes".to_owned(), "engine".to_owned()));
        }
        properties
    }

    /// Decorates `inner` if the engine needs it. `root` is the root of all tasks.
    pub(crate) async fn executions(
        self,
        inner: Arc<dyn Executions>,
        connection: &Connection,
        remote: &RemoteArguments,
        root: &TaskRoot,
    ) -> Result<Arc<dyn Executions>, CommandError> {
        if self == Self::OfBitzel {
            if !remote.engine_properties.is_empty() {
                console::warn(
                    "--engine-property has no effect: the server is one of bitzel, whose workers are chosen by the root",
                );
            }
            return Ok(inner);
        }
        require_execution(connection).await?;
        let image_root = match root {
            TaskRoot::Image(digest) => Some(*digest),
            // The user vouches for the root of the engine's workers.
            TaskRoot::OfWorker(_) if remote.root_identity.is_some() => None,
            TaskRoot::OfWorker(_) => {
                return Err(CommandError::new(
                    "the server is not one of bitzel, and does not tell which root file system its workers have",
                )
                .hint(
                    "bring one with --root (`bitzel root make` or `bitzel root import`), or give a name with \
                     --root-identity to all workers whose packages are the same: results are shared under that name",
                ));
            }
        };
        if !is_static(LAUNCHER_EXECUTABLE) {
            return Err(CommandError::new(
                "this bitzel was built without the static C library, so its launcher does not run on other machines",
            )
            .hint("install the static C library (glibc-static in Fedora) and build bitzel again"));
        }
        let settings = PortableSettings {
            launcher: Bytes::from_static(LAUNCHER_EXECUTABLE),
            properties: remote.engine_properties.clone(),
            image_root,
        };
        let store = connection.store.clone();
        Ok(Arc::new(PortableExecutions::new(inner, store, settings)))
    }
}

/// Fails if a server is a cache alone.
async fn require_execution(connection: &Connection) -> Result<(), CommandError> {
    let request = GetCapabilitiesRequest {
        instance_name: connection.instance.to_string(),
    };
    let capabilities = CapabilitiesClient::new(connection.channel.clone())
        .get_capabilities(request)
        .await
        .map_err(with_status_hint)?
        .into_inner();
    let executes = capabilities
        .execution_capabilities
        .is_some_and(|capabilities| capabilities.exec_enabled);
    if !executes {
        return Err(
            CommandError::new("the server stores blobs and results, but executes nothing").hint(
                "build on this machine and share results through it: --remote-cache instead of --remote",
            ),
        );
    }
    Ok(())
}

/// True if a 64-bit ELF program names no dynamic linker.
fn is_static(program: &[u8]) -> bool {
    let number = |offset: usize, length: usize| -> Option<usize> {
        let bytes = program.get(offset..offset.checked_add(length)?)?;
        let number = bytes
            .iter()
            .rev()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    };
    let types = || -> Option<Vec<usize>> {
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(offset.checked_add(index * size)?, 4))
            .collect()
    };
    types().is_some_and(|types| !types.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_static_programs_from_dynamic_ones() {
        assert!(is_static(LAUNCHER_EXECUTABLE));
        let this_program = std::fs::read("/proc/self/exe").unwrap();
        assert!(
            !is_static(&this_program),
            "the test program is linked dynamically"
        );
        assert!(!is_static(b"\x7fELF"));
    }
}
