//! A worker on a store in memory, and input trees written down shortly.
#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests use this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_cas::blob_store::{one_chunk, read_whole};
use bitzel_proto::google::protobuf::{Duration, Timestamp, UInt32Value};
use bitzel_proto::reapi::{
    Action, ActionResult, Command, Directory, DirectoryNode, ExecuteResponse, FileNode, NodeProperties,
    NodeProperty, Platform, SymlinkNode, Tree, command::EnvironmentVariable, platform::Property,
};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_worker::{ActionExecutor, ActionRequest, ExecutorConfig, SandboxedActionExecutor};
use bytes::Bytes;
use prost::Message;
use tokio_util::sync::CancellationToken;

mod watched_blob_store;

pub use watched_blob_store::WatchedBlobStore;

pub const FUNCTION: DigestFunction = DigestFunction::Sha256;
/// The modification time of inputs that have one.
pub const MTIME: i64 = 1_500_000_000;

/// A node of an input tree.
#[derive(Debug, Clone)]
pub enum Node {
    File(Vec<u8>, Option<NodeProperties>),
    Executable(Vec<u8>),
    Symlink(String),
    Directory(BTreeMap<String, Self>, Option<NodeProperties>),
}

/// Mode and time.
pub fn properties(mode: u32, seconds: i64) -> NodeProperties {
    NodeProperties {
        properties: vec![],
        mtime: Some(Timestamp { seconds, nanos: 123 }),
        unix_mode: Some(UInt32Value { value: mode }),
    }
}

pub fn in_group(mut properties: NodeProperties, group: &str) -> NodeProperties {
    properties.properties.push(NodeProperty {
        name: "hardlink-group".into(),
        value: group.into(),
    });
    properties
}

impl Node {
    /// The same with the modes and times that everything has by default.
    pub fn without_properties(&self) -> Self {
        match self {
            Self::File(content, _) => Self::File(content.clone(), None),
            Self::Directory(entries, _) => {
                let entries = entries
                    .iter()
                    .map(|(name, node)| (name.clone(), node.without_properties()));
                Self::Directory(entries.collect(), None)
            }
            other => other.clone(),
        }
    }

    /// A small tree for both ways that a worker has with them: one that it copies, and one that it puts below an overlay
    /// because some of it has properties.
    pub fn both_ways(&self) -> [Self; 2] {
        let Self::Directory(entries, _) = self else {
            panic!("a tree starts with a directory");
        };
        let below = Self::Directory(entries.clone(), Some(properties(0o755, MTIME)));
        [self.without_properties(), below]
    }
}

/// A file that can be written to.
pub fn file(content: impl AsRef<[u8]>) -> Node {
    Node::File(content.as_ref().to_vec(), Some(properties(0o644, MTIME)))
}

/// A file without properties, as most clients send them.
pub fn plain_file(content: impl AsRef<[u8]>) -> Node {
    Node::File(content.as_ref().to_vec(), None)
}

pub fn symlink(target: &str) -> Node {
    Node::Symlink(target.into())
}

pub fn directory<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::Directory(
        entries
            .into_iter()
            .map(|(name, node)| (name.to_owned(), node))
            .collect(),
        None,
    )
}

pub struct Worker {
    executor: Option<SandboxedActionExecutor>,
    pub store: Arc<WatchedBlobStore>,
    pub directory: tempfile::TempDir,
    config: ExecutorConfig,
}

/// What to run; the rest of the Action has defaults.
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

/// For commands that attack with the power that they have in a user namespace of their own.
pub const USER_NAMESPACES: &[(&str, &str)] = &[("user-namespaces", "on")];
/// Both properties that bring a tree back exactly.
pub const EXACT: &[&str] = &["mtime", "unix_mode"];

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

    pub fn executor(&self) -> &SandboxedActionExecutor {
        self.executor.as_ref().unwrap()
    }

    /// Ends the worker.
    pub fn kill(&mut self) {
        self.executor = None;
    }

    /// Starts a new worker on the same cache directory.
    pub async fn restart(&mut self) {
        self.kill();
        let blobs: Arc<dyn BlobStore> = self.store.clone();
        let executor = SandboxedActionExecutor::open(self.config.clone(), Arc::new(blobs));
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

    pub async fn execute(&self, action: Digest) -> ExecuteResponse {
        self.executor().execute(Self::request(action)).await
    }

    /// Runs a script on a tree and gives the response, whatever it is.
    pub async fn respond(&self, tree: &Node, run: Run<'_>) -> ExecuteResponse {
        let root = self.put_tree(tree).await;
        let action = self.action(root, &run).await;
        self.execute(action).await
    }

    /// Runs a script that has to succeed.
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

    /// An output file's content.
    pub async fn output(&self, result: &ActionResult, path: &str) -> String {
        let file = result.output_files.iter().find(|file| file.path == path);
        let digest = &file
            .unwrap_or_else(|| panic!("no output {path}: {result:?}"))
            .digest;
        String::from_utf8(self.read(digest.as_ref()).await.to_vec()).unwrap()
    }

    /// An output directory's Tree.
    pub async fn tree(&self, result: &ActionResult, path: &str) -> Tree {
        let directory = result
            .output_directories
            .iter()
            .find(|directory| directory.path == path)
            .unwrap();
        Tree::decode(self.read(directory.tree_digest.as_ref()).await).unwrap()
    }

    /// All Directories of an output directory into the store, and its root: what the next Action takes as input.
    pub async fn input_of(&self, result: &ActionResult, path: &str) -> Digest {
        let tree = self.tree(result, path).await;
        for child in &tree.children {
            self.put_message(child).await;
        }
        self.put_message(&tree.root.unwrap()).await
    }

    /// What running Actions leave: nothing but empty directories for the next ones.
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

/// Paths of all files below a directory, relative to it, with their contents.
pub fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.insert(
                    path.strip_prefix(root).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}
