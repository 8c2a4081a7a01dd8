//! Root file system in which a build parses and its tasks run: that of a machine, or an image root (decisions 0036, 0047).

mod files;
mod identity;

use std::path::Path;
use std::sync::Arc;

use bitzel_bitbake::FrontEndRoot;
use bitzel_cas::BlobStore;
use bitzel_graph::plan::signature::TaskRoot;
use bitzel_proto::Digest;
use bitzel_roots::{Checkout, RootFile, RootRecord, RootRegistry};
use bitzel_worker::{Bounds, RootIdentity};

pub(crate) use files::RootedBuildFiles;
pub(crate) use identity::{MachineIdentities, offered_identity, own_identity};

use crate::arguments::{MetadataArguments, RemoteArguments};
use crate::command_error::CommandError;
use crate::connection::Connection;
use crate::console;
use crate::directories::Directories;
use identity::machine_identities;

/// Value of `--root` for the root file system of a machine, where a file beside the layers chooses another one.
pub(crate) const HOST_ROOT: &str = "host";

/// Image root that a build chooses.
#[derive(Debug, Clone)]
pub(crate) struct ChosenImage {
    pub(crate) digest: Digest,
    /// The way to get it, for people, if the choice is in a file beside the layers.
    source: String,
}

/// Root file system that a build chooses.
pub(crate) enum RootChoice {
    /// The root of each worker with the required identity; the front end runs in that of this machine.
    OfMachines(MachineIdentities),
    /// An image root.
    Image(ChosenImage),
}

impl RootChoice {
    /// The choice of the command line, else of the file beside the layers, else that of this machine.
    pub(crate) async fn find(
        directories: &Directories,
        metadata: &MetadataArguments,
        remote: &RemoteArguments,
    ) -> Result<Self, CommandError> {
        if remote.root_identity.is_some() {
            if metadata.root.as_deref().is_some_and(|root| root != HOST_ROOT) {
                return Err(
                    CommandError::new("--root and --root-identity ask for two root file systems").hint(
                        "leave out --root-identity (or BITZEL_ROOT_IDENTITY): it is about roots of workers",
                    ),
                );
            }
            return Ok(Self::OfMachines(machine_identities(remote).await?));
        }
        match chosen_image(directories, metadata)? {
            Some(image) => Ok(Self::Image(image)),
            None => Ok(Self::OfMachines(machine_identities(remote).await?)),
        }
    }

    /// The root in keys and Actions.
    pub(crate) fn task_root(&self) -> TaskRoot {
        match self {
            Self::OfMachines(identities) => TaskRoot::OfWorker(identities.required.to_string()),
            Self::Image(image) => TaskRoot::Image(image.digest),
        }
    }

    /// True if tasks run in the root in which the front end parses, or in one like it.
    pub(crate) fn is_root_of_tasks(&self) -> bool {
        match self {
            Self::OfMachines(identities) => identities.required.to_string() == identities.own,
            Self::Image(_) => true,
        }
    }

    /// The identity that a worker in this process offers for the build.
    pub(crate) fn worker_identity(&self) -> RootIdentity {
        match self {
            Self::OfMachines(identities) => identities.required.clone(),
            Self::Image(_) => RootIdentity::of_image_roots(),
        }
    }

    /// Fetches an image root to this machine, if it is not there, and returns the root of the front end.
    pub(crate) async fn prepare(
        &self,
        directories: &Directories,
        remote: &RemoteArguments,
    ) -> Result<(FrontEndRoot, Option<Checkout>), CommandError> {
        let image = match self {
            Self::OfMachines(identities) => {
                let root = FrontEndRoot {
                    identity: identities.own.clone(),
                    directory: None,
                };
                return Ok((root, None));
            }
            Self::Image(image) => image,
        };
        let checkout = match Checkout::find(&directories.roots().checkouts(), image.digest) {
            Some(checkout) => checkout,
            None => image.fetch(directories, remote).await?,
        };
        Ok((front_end_root(&checkout), Some(checkout)))
    }
}

/// The root of the front end for a command without a server: an image root has to be on this machine.
pub(crate) async fn local_root(
    directories: &Directories,
    metadata: &MetadataArguments,
) -> Result<FrontEndRoot, CommandError> {
    let Some(image) = chosen_image(directories, metadata)? else {
        return Ok(FrontEndRoot {
            identity: own_identity().await,
            directory: None,
        });
    };
    let checkout = Checkout::find(&directories.roots().checkouts(), image.digest).ok_or_else(|| {
        CommandError::new(format!("the root {} is not on this machine", image.digest))
            .hint("`bitzel build -n` fetches it from a store")
    })?;
    Ok(front_end_root(&checkout))
}

fn front_end_root(checkout: &Checkout) -> FrontEndRoot {
    FrontEndRoot {
        identity: format!("image {}", checkout.digest()),
        directory: Some(checkout.path()),
    }
}

fn chosen_image(
    directories: &Directories,
    metadata: &MetadataArguments,
) -> Result<Option<ChosenImage>, CommandError> {
    match metadata.root.as_deref() {
        Some(HOST_ROOT) => Ok(None),
        Some(text) => {
            let digest = resolve(&directories.roots(), text)?;
            let source = String::new();
            Ok(Some(ChosenImage { digest, source }))
        }
        None => from_file(&metadata.build_dir),
    }
}

/// The digest of a root that is given by its name on this machine or its digest.
pub(crate) fn resolve(roots: &RootRegistry, text: &str) -> Result<Digest, CommandError> {
    roots.resolve(text).map_err(|error| {
        CommandError::from(error).hint(
            "give a name of `bitzel root list`, a digest HASH/SIZE, or make one with `bitzel root import` or \
             `bitzel root make`",
        )
    })
}

fn from_file(build_directory: &Path) -> Result<Option<ChosenImage>, CommandError> {
    let Some(file) = RootFile::find(build_directory)? else {
        return Ok(None);
    };
    let digest = file.digest();
    Ok(digest.map(|digest| ChosenImage {
        digest,
        source: file.source,
    }))
}

impl ChosenImage {
    async fn fetch(
        &self,
        directories: &Directories,
        remote: &RemoteArguments,
    ) -> Result<Checkout, CommandError> {
        console::print(&format!("fetching the root {}", self.digest));
        let connection = store_connection(directories, remote).await?;
        let roots = directories.roots();
        let store: Arc<dyn BlobStore> = connection.store.clone();
        let fetched = Checkout::fetch(&roots.checkouts(), self.digest, store).await;
        connection.close().await?;
        let checkout = fetched.map_err(|error| self.explain(error))?;
        if roots.find(self.digest)?.is_none() {
            let record = RootRecord {
                source: self.source.clone(),
                ..RootRecord::default()
            };
            roots.record(self.digest, &record)?;
        }
        Ok(checkout)
    }

    fn explain(&self, error: bitzel_roots::Error) -> CommandError {
        if !matches!(&error, bitzel_roots::Error::Store(bitzel_cas::Error::NotFound(_))) {
            return CommandError::from(error).context(format!("cannot fetch the root {}", self.digest));
        }
        let error = CommandError::new(format!("the store does not have the root {}", self.digest));
        if self.source.is_empty() {
            return error.hint("put it there with `bitzel root import` or `bitzel root make`");
        }
        error.hint(format!("it is made like this: {}", self.source))
    }
}

/// Connection for a command that reads or writes blobs and runs nothing.
pub(crate) async fn store_connection(
    directories: &Directories,
    remote: &RemoteArguments,
) -> Result<Connection, CommandError> {
    // Without slots there is no remote cache either.
    let slots = usize::from(remote.remote_cache.is_some());
    let identity = RootIdentity::of_image_roots();
    Connection::open(directories, remote, Some(slots), &identity, Bounds::default()).await
}
