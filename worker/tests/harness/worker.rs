//! A worker on a store in memory, and the Actions that it executes.

use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_cas::blob_store::{one_chunk, read_whole};
use bitzel_proto::google::protobuf::Duration;
use bitzel_proto::reapi::{
    Action, ActionResult, Command, Directory, DirectoryNode, ExecuteResponse, FileNode, Platform,
    SymlinkNode, Tree, command::EnvironmentVariable, execution_stage, platform::Property,
};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_worker::{ActionExecutor, ActionRequest, ExecutorConfig, compose_executor};
use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::input_tree::Node;
use super::watched_blob_store::WatchedBlobStore;

pub const FUNCTION: DigestFunction = DigestFunction::Sha256;
/// Platform of commands that attack with the privileges of their own user namespace.
pub const USER_NAMESPACES: &[(&str, &str)] = &[("user-namespaces", "on")];
/// The properties that restore a tree exactly.
pub const EXACT: &[&str] = &["mtime", "unix_mode"];

/// The parts of an Action that a test sets.
#[derive(Default)]
pub struct Run<'run> {
    pub script: &'run str,
    pub outputs: &'run [&'run str],
    pub properties: &'run [&'run str],
    pub platform: &'run [(&'run str, &'run str)],
    pub environment: &'run [(&'run str, &'run str)],
    pub working_directory: &'run str,
    pub timeout: Option<std::time::Duration>,
}

/// A worker in a temporary directory.
pub struct Worker {
    executor: Option<Arc<dyn ActionExecutor>>,
    pub store: Arc<WatchedBlobStore>,
    pub directory: tempfile::TempDir,
    config: ExecutorConfig,
}

impl Worker {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ExecutorConfig)) -> Self {
        Self::on(Arc::default(), change).await
    }

    pub async fn on(store: Arc<WatchedBlobStore>, change: impl FnOnce(&mut ExecutorConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ExecutorConfig::new(directory.path().join("cache"));
        change(&mut config);
        let mut worker = Self {
            executor: None,
            store,
            directory,
            config,
        };
        worker.restart().await;
        worker
    }

    pub fn executor(&self) -> &dyn ActionExecutor {
        &**self.executor.as_ref().unwrap()
    }

    /// Ends the worker. Its directories stay.
    pub fn stop(&mut self) {
        self.executor = None;
    }

    /// Starts a new worker on the same directories.
    pub async fn restart(&mut self) {
        self.stop();
        let blobs: Arc<dyn BlobStore> = self.store.clone();
        let executor = compose_executor(self.config.clone(), Arc::new(blobs));
        self.executor = Some(executor.await.unwrap());
    }

    pub fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    pub async fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = FUNCTION.digest(&bytes);
        self.store.write(digest, one_chunk(bytes)).await.unwrap();
        digest
    }

    pub async fn put_message(&self, message: &impl Message) -> Digest {
        self.put(message.encode_to_vec()).await
    }

    pub async fn put_tree(&self, node: &Node) -> Digest {
        let Node::Directory(entries, node_properties) = node else {
            panic!("a tree starts with a directory");
        };
        let mut directory = Directory {
            node_properties: node_properties.clone(),
            ..Directory::default()
        };
        for (name, node) in entries {
            let name = name.clone();
            match node {
                Node::File(content, node_properties) => directory.files.push(FileNode {
                    name,
                    digest: Some(self.put(content.clone()).await.into()),
                    is_executable: node_properties
                        .as_ref()
                        .and_then(|properties| properties.unix_mode)
                        .is_some_and(|mode| mode.value & 0o100 != 0),
                    node_properties: node_properties.clone(),
                }),
                Node::Executable(content) => directory.files.push(FileNode {
                    name,
                    digest: Some(self.put(content.clone()).await.into()),
                    is_executable: true,
                    node_properties: None,
                }),
                Node::Symlink(target) => directory.symlinks.push(SymlinkNode {
                    name,
                    target: target.clone(),
                    node_properties: None,
                }),
                Node::Directory(..) => directory.directories.push(DirectoryNode {
                    name,
                    digest: Some(Box::pin(self.put_tree(node)).await.into()),
                }),
            }
        }
        self.put_message(&directory).await
    }

    pub async fn action(&self, root: Digest, run: &Run<'_>) -> Digest {
        let command = Command {
            arguments: vec!["sh".into(), "-euc".into(), run.script.into()],
            output_paths: run.outputs.iter().map(|&path| path.into()).collect(),
            output_node_properties: run.properties.iter().map(|&name| name.into()).collect(),
            environment_variables: run
                .environment
                .iter()
                .map(|&(name, value)| EnvironmentVariable {
                    name: name.into(),
                    value: value.into(),
                })
                .collect(),
            working_directory: run.working_directory.into(),
            ..Command::default()
        };
        self.action_of(root, &command, run).await
    }

    pub async fn action_of(&self, root: Digest, command: &Command, run: &Run<'_>) -> Digest {
        let platform = run.platform.iter().map(|&(name, value)| Property {
            name: name.into(),
            value: value.into(),
        });
        let action = Action {
            command_digest: Some(self.put_message(command).await.into()),
            input_root_digest: Some(root.into()),
            timeout: run.timeout.map(|timeout| Duration {
                seconds: timeout.as_secs().try_into().unwrap(),
                nanos: timeout.subsec_nanos().try_into().unwrap(),
            }),
            platform: Some(Platform {
                properties: platform.collect(),
            }),
            ..Action::default()
        };
        self.put_message(&action).await
    }

    pub fn request(action: Digest) -> ActionRequest {
        ActionRequest {
            instance: InstanceName::default(),
            action,
            queued: None,
            stages: None,
            cancellation: CancellationToken::new(),
        }
    }

    /// A request and the receiver of its stages. The first one reports the start of the command.
    pub fn observed_request(action: Digest) -> (ActionRequest, UnboundedReceiver<execution_stage::Value>) {
        let (stages, receiver) = unbounded_channel();
        let request = ActionRequest {
            stages: Some(stages),
            ..Self::request(action)
        };
        (request, receiver)
    }

    pub async fn execute(&self, action: Digest) -> ExecuteResponse {
        self.executor().execute(Self::request(action)).await
    }

    /// Runs a script on a tree and returns the response.
    pub async fn respond(&self, tree: &Node, run: Run<'_>) -> ExecuteResponse {
        let root = self.put_tree(tree).await;
        let action = self.action(root, &run).await;
        self.execute(action).await
    }

    /// Runs a script that has to succeed on a tree.
    pub async fn run(&self, tree: &Node, run: Run<'_>) -> ActionResult {
        let response = self.respond(tree, run).await;
        self.succeeded(response).await
    }

    pub async fn succeeded(&self, response: ExecuteResponse) -> ActionResult {
        let status = response.status.unwrap();
        assert_eq!(status.code, 0, "{}", status.message);
        let result = response.result.unwrap();
        assert_eq!(result.exit_code, 0, "stderr: {}", self.stderr(&result).await);
        result
    }

    pub async fn read(&self, digest: Option<&bitzel_proto::reapi::Digest>) -> Bytes {
        match digest {
            None => Bytes::new(),
            Some(digest) => read_whole(&*self.store, Digest::from_wire(FUNCTION, digest).unwrap())
                .await
                .unwrap(),
        }
    }

    pub async fn stdout(&self, result: &ActionResult) -> String {
        String::from_utf8(self.read(result.stdout_digest.as_ref()).await.to_vec()).unwrap()
    }

    pub async fn stderr(&self, result: &ActionResult) -> String {
        String::from_utf8(self.read(result.stderr_digest.as_ref()).await.to_vec()).unwrap()
    }

    /// The content of an output file.
    pub async fn output(&self, result: &ActionResult, path: &str) -> String {
        let file = result.output_files.iter().find(|file| file.path == path);
        let digest = &file
            .unwrap_or_else(|| panic!("no output {path}: {result:?}"))
            .digest;
        String::from_utf8(self.read(digest.as_ref()).await.to_vec()).unwrap()
    }

    /// The Tree of an output directory.
    pub async fn tree(&self, result: &ActionResult, path: &str) -> Tree {
        let directory = result
            .output_directories
            .iter()
            .find(|directory| directory.path == path)
            .unwrap();
        Tree::decode(self.read(directory.tree_digest.as_ref()).await).unwrap()
    }

    /// Writes all Directories of an output directory to the store, for the next Action, and returns the root.
    pub async fn input_of(&self, result: &ActionResult, path: &str) -> Digest {
        let tree = self.tree(result, path).await;
        for child in &tree.children {
            self.put_message(child).await;
        }
        self.put_message(&tree.root.unwrap()).await
    }

    /// The remains of Actions, without the empty directories that wait for the next Action.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let list = |path: PathBuf| {
            std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        };
        let cache = self.cache();
        let changes = self.config.scratch_directory.as_ref().unwrap_or(&cache);
        let kept = |path: &PathBuf| {
            (path.ends_with("lower") || path.ends_with("work")) && list(path.clone()).is_empty()
        };
        let actions = [list(cache.join("actions")), list(changes.join("changes"))].concat();
        let of_actions = actions.into_iter().flat_map(list).filter(|path| !kept(path));
        of_actions.chain(list(cache.join("temporary"))).collect()
    }
}
