//! The client's part of a hand-over: uploads everything that the walk of a build needs.

use std::collections::{BTreeMap, BTreeSet};

use bitzel_cas::{BlobSource, BlobStore, UploadSummary, upload_missing};
use bitzel_graph::plan::signature::{Environment, TaskRoot};
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::plan::tree::DIGEST_FUNCTION;
use bitzel_graph::walk::BuildInputs;
use bitzel_graph::walk::build_files::{is_fetch, snapshot_digest, snapshots};
use bitzel_proto::Digest;
use bitzel_proto::builds::{BuildPlan, Download, build_plan};
use bitzel_proto::reapi::Platform;
use bitzel_proto::reapi::platform::Property;
use bytes::Bytes;

use crate::error::BuildsError;

/// Version of the plan's format.
pub(crate) const PLAN_FORMAT_VERSION: u32 = 1;

/// Build that a client hands over.
pub struct HandOver<'a> {
    /// Its graph.
    pub index: &'a TaskIndex,
    /// Inputs on this client.
    pub inputs: &'a BuildInputs,
    /// Properties that decide results beside the signatures.
    pub environment: &'a Environment,
    /// Continues with tasks that do not need a failed task.
    pub keep_going: bool,
    /// Maximum number of concurrent executions; 0 is the limit of the server.
    pub jobs: u32,
    /// Names of the tasks without a result. Only the sources of those are uploaded.
    pub would_run: &'a BTreeSet<String>,
}

impl HandOver<'_> {
    /// Uploads the plan and what it names. Returns the digest of the plan.
    pub async fn upload(&self, store: &dyn BlobStore) -> Result<(Digest, UploadSummary), BuildsError> {
        let graph = message(self.index.graph());
        let downloads = self.downloads().await?;
        let plan = message(&BuildPlan {
            format_version: PLAN_FORMAT_VERSION,
            graph: Some(graph.0.to_wire()),
            metadata: Some(self.inputs.metadata.to_wire()),
            platform: Some(platform(self.environment)),
            root: Some(match &self.environment.root {
                TaskRoot::OfWorker(identity) => build_plan::Root::RootIdentity(identity.clone()),
                TaskRoot::Image(digest) => build_plan::Root::RootImage(digest.to_wire()),
            }),
            downloads: downloads
                .iter()
                .map(|(name, (digest, _))| Download {
                    name: name.clone(),
                    digest: Some(digest.to_wire()),
                })
                .collect(),
            keep_going: self.keep_going,
            jobs: self.jobs,
        });
        let snapshots = snapshots(self.index.graph()).filter_map(snapshot_digest);
        let snapshots = snapshots.map(|digest| (digest, self.inputs.files.snapshot(digest)));
        let digest = plan.0;
        let messages = [plan, graph].map(|(digest, bytes)| (digest, BlobSource::Bytes(bytes)));
        let files = self.inputs.files.metadata().into_iter().chain(snapshots);
        let blobs = files.chain(downloads.into_values()).chain(messages);
        let uploaded = upload_missing(store, blobs).await;
        let uploaded = uploaded.map_err(BuildsError::store("uploading the build"))?;
        Ok((digest, uploaded))
    }

    /// Sources on this client that tasks without a result need, by name.
    async fn downloads(&self) -> Result<BTreeMap<String, (Digest, BlobSource)>, BuildsError> {
        let mut downloads = BTreeMap::new();
        let fetches = self.index.tasks().filter(|task| {
            is_fetch(self.index.task(*task)) && self.would_run.contains(&self.index.display_name(*task))
        });
        for task in fetches {
            let sources = &self.index.recipe(task).sources;
            for source in sources.iter().filter(|source| source.present) {
                let name = &source.download_name;
                let found = self.inputs.files.download(name).await;
                let found = found.map_err(|source| BuildsError::File {
                    path: name.into(),
                    source,
                })?;
                if let Some(found) = found {
                    downloads.insert(name.clone(), found);
                }
            }
        }
        Ok(downloads)
    }
}

fn platform(environment: &Environment) -> Platform {
    let properties = environment.platform.iter();
    let properties = properties.map(|(name, value)| Property {
        name: name.clone(),
        value: value.clone(),
    });
    Platform {
        properties: properties.collect(),
    }
}

fn message(message: &impl prost::Message) -> (Digest, Bytes) {
    let (digest, bytes) = Digest::of_message(DIGEST_FUNCTION, message);
    (digest, bytes.into())
}
