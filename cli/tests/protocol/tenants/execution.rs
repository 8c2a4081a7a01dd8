//! Execution: all inputs of an Action belong to its tenant, and so do its outputs.

use std::process::{Child, Command as Program, Stdio};

use bitzel_proto::missing_blobs::{missing_blob_subjects, to_rpc_status};
use bitzel_proto::reapi::{Action, ActionResult, Command, Directory, DirectoryNode, ExecuteRequest};
use tempfile::TempDir;

use super::*;
use crate::protocol::messages::{file, of_files, paths, request, response, shell, succeeded};

const SECRET: &[u8] = b"a secret of the team";

impl Client<'_> {
    async fn action(&self, command: Digest, root: Digest) -> Digest {
        let action = Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(root.to_wire()),
            ..Default::default()
        };
        self.put_message(&action).await
    }

    async fn execute(&self, action: Digest) -> Result<ActionResult, Status> {
        let request = ExecuteRequest {
            instance_name: self.instance.to_owned(),
            ..request(action)
        };
        let operations = self.server.execute(request).await?;
        Ok(succeeded(response(operations.last().unwrap())))
    }

    /// The blob that is missing for an execution.
    async fn lacks(&self, action: Digest) -> String {
        let refused = self.execute(action).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let [missing] = &missing_blob_subjects(&to_rpc_status(&refused))[..] else {
            panic!("{refused:?}");
        };
        missing.clone()
    }
}

/// Worker process that ends with this value.
struct Worker {
    process: Child,
    _cache: TempDir,
}

impl Worker {
    fn start(server: &Server) -> Self {
        let cache = TempDir::new().unwrap();
        let process = Program::new(env!("CARGO_BIN_EXE_bitzel"))
            .arg("--cache-dir")
            .arg(cache.path())
            // Tests may run as root.
            .args(["worker", "--allow-root", "--jobs", "2"])
            .arg(format!("grpc://{}", server.address()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            _cache: cache,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Command that copies `below/secret`.
fn copy() -> Command {
    Command {
        output_paths: paths(&["copy"]),
        ..shell("cat below/secret >copy")
    }
}

fn above(below: Digest) -> Directory {
    Directory {
        directories: vec![DirectoryNode {
            name: "below".to_owned(),
            digest: Some(below.to_wire()),
        }],
        ..Default::default()
    }
}

fn subject(digest: Digest) -> String {
    format!("blobs/{digest}")
}

/// Executes an Action of one tenant, so that the worker has its inputs, then tries all ways to use them for another one.
async fn refuses_inputs_of_another_tenant(server: &Server) {
    let [owner, colleague, stranger] = Client::all(server);
    let secret = owner.put(SECRET).await;
    let below = owner.put_message(&of_files(vec![file("secret", secret)])).await;
    let root = owner.put_message(&above(below)).await;
    let command = owner.put_message(&copy()).await;
    let action = owner.action(command, root).await;
    let result = owner.execute(action).await.unwrap();
    assert_eq!(result.output_files[0].digest, Some(secret.to_wire()));
    colleague.execute(action).await.unwrap();

    assert_eq!(stranger.lacks(action).await, subject(action));
    // An Action of its own, with more and more of what it needs. Only what it lacks itself is named.
    assert_eq!(stranger.put_message(&copy()).await, command);
    assert_eq!(stranger.action(command, root).await, action);
    assert_eq!(stranger.lacks(action).await, subject(root));
    stranger.put_message(&above(below)).await;
    assert_eq!(stranger.lacks(action).await, subject(below));
    stranger
        .put_message(&of_files(vec![file("secret", secret)]))
        .await;
    assert_eq!(stranger.lacks(action).await, subject(secret));
    assert!(!stranger.has(secret).await);
    // Its own root above, its own file beside: a part of the tree that the worker has as it is.
    let own = stranger.put(b"own").await;
    let beside = Directory {
        files: vec![file("own", own)],
        ..above(below)
    };
    let beside = stranger.put_message(&beside).await;
    let other = stranger.action(command, beside).await;
    assert_eq!(stranger.lacks(other).await, subject(secret));
    // The file itself proves that it has it.
    stranger.put(SECRET).await;
    let result = stranger.execute(action).await.unwrap();
    assert_eq!(result.output_files[0].digest, Some(secret.to_wire()));
    let others = owner.put_message(&shell("true")).await;
    let action = stranger.action(others, root).await;
    assert_eq!(stranger.lacks(action).await, subject(others));
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_inputs_of_another_tenant_are_refused() {
    let server = Server::farm_with(TENANTS).await;
    refuses_inputs_of_another_tenant(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_inputs_are_refused_for_a_worker_elsewhere() {
    let server = Server::http_cache_with(TENANTS).await;
    let _worker = Worker::start(&server);
    refuses_inputs_of_another_tenant(&server).await;
}

/// The error has to fit into the headers of a response.
#[tokio::test(flavor = "multi_thread")]
async fn many_missing_inputs_are_named_in_part() {
    let server = Server::farm_with(TENANTS).await;
    let [_, _, stranger] = Client::all(&server);
    let files =
        (0..5_000).map(|number: u32| file(&format!("{number:04}"), SHA256.digest(&number.to_le_bytes())));
    let root = stranger.put_message(&of_files(files.collect())).await;
    let command = stranger.put_message(&copy()).await;
    let action = stranger.action(command, root).await;
    let refused = stranger.execute(action).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let named = missing_blob_subjects(&to_rpc_status(&refused));
    assert!((1..100).contains(&named.len()), "{}", named.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_root_that_is_no_directory_is_refused() {
    let server = Server::farm_with(TENANTS).await;
    let [_, _, stranger] = Client::all(&server);
    let root = stranger.put(b"\xff no Directory").await;
    let command = stranger.put_message(&copy()).await;
    let action = stranger.action(command, root).await;
    let refused = stranger.execute(action).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

async fn gives_outputs_to_the_tenant_alone(server: &Server) {
    let [owner, colleague, stranger] = Client::all(server);
    let script = "cat /proc/sys/kernel/random/uuid | tee file | rev; mkdir -p tree/deep; cp file tree/deep; echo log >&2; \
                  head -c 300000 /dev/urandom >large";
    let command = Command {
        output_paths: paths(&["file", "large", "tree"]),
        ..shell(script)
    };
    let mut results = vec![];
    for client in [owner, stranger] {
        let root = client.put_message(&Directory::default()).await;
        let command = client.put_message(&command).await;
        let action = client.action(command, root).await;
        results.push(client.execute(action).await.unwrap());
    }
    let outputs: Vec<Vec<Digest>> = results.iter().map(outputs).collect();
    let [owned, strangers] = &outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(owned.len(), 5, "two files, a tree, two logs");
    // The log of standard error has the same bytes.
    let (same, own): (Vec<_>, Vec<_>) = owned.iter().partition(|digest| strangers.contains(digest));
    assert_eq!(same.len(), 1, "two executions of one Action: {outputs:?}");
    assert_eq!(owner.missing(owned).await, []);
    assert_eq!(colleague.missing(owned).await, []);
    assert_eq!(stranger.missing(owned).await, own);
    assert_eq!(stranger.missing(strangers).await, []);
    assert_eq!(owner.missing(strangers).await.len(), 4);
}

/// The blobs of a result.
fn outputs(result: &ActionResult) -> Vec<Digest> {
    let files = result.output_files.iter().map(|file| &file.digest);
    let trees = result.output_directories.iter().map(|tree| &tree.tree_digest);
    let logs = [&result.stdout_digest, &result.stderr_digest];
    let all = files.chain(trees).chain(logs);
    all.map(|digest| Digest::from_wire_field(SHA256, digest.as_ref()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_outputs_belong_to_the_tenant_of_the_action() {
    let server = Server::farm_with(TENANTS).await;
    gives_outputs_to_the_tenant_alone(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_outputs_of_a_worker_elsewhere_belong_to_the_tenant() {
    let server = Server::http_cache_with(TENANTS).await;
    let _worker = Worker::start(&server);
    gives_outputs_to_the_tenant_alone(&server).await;
}
