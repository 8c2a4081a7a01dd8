//! Executions of fetch tasks on this machine (`--fetch client`), with what the user has for it: ssh agent, passwords, proxies.
//!
//! A fetch task is an Action like any other, and its executor here is that of a worker: it takes the inputs from the store of
//! the server and puts the outputs there. So the walk records the result under the task's signature as ever. What the
//! user has is no part of the Action: it is mounted in the sandbox, and reaches no store.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::BlobStore;
use bitzel_graph::plan::task_action::may_use_network;
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::walk::{ExecutionRequest, Executions};
use bitzel_proto::InstanceName;
use bitzel_proto::reapi::ExecuteResponse;
use bitzel_worker::{
    ActionExecutor, ActionRequest, Bounds, ExecutorConfig, USER_HOME, UserAccess, compose_executor,
};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::command_error::CommandError;
use crate::connection::processors;
use crate::directories::Directories;
use crate::root_user;

/// Variable of the runner with the user's variables (see `runner/client_fetch.py`).
const FETCH_ENVIRONMENT: &str = "BITZEL_FETCH_ENVIRONMENT";

/// Files and directories below the home directory that fetchers read: ssh, wget, curl and git, npm, pip, AWS.
const USER_FILES: [&str; 10] = [
    ".ssh",
    ".netrc",
    ".wgetrc",
    ".curlrc",
    ".gitconfig",
    ".config/git",
    ".git-credentials",
    ".npmrc",
    ".config/pip",
    ".aws",
];

/// Variables of the user that fetchers get, as far as those of the release let them through
/// (`bb.fetch2.FETCH_EXPORT_VARS`). Those that name files and sockets are not in this list.
const VARIABLES: [&str; 25] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "FTPS_PROXY",
    "ftps_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SMART_HTTP",
    "SOCKS5_USER",
    "SOCKS5_PASSWD",
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ROLE_ARN",
    "AWS_DEFAULT_REGION",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
];

/// Variables that name a file or a socket, which is mounted below the home directory.
const FILE_VARIABLES: [&str; 7] = [
    "SSH_AUTH_SOCK",
    "GIT_CONFIG_GLOBAL",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Executes fetch tasks on this machine, and all others by other executions.
pub(crate) struct ClientFetches {
    others: Arc<dyn Executions>,
    /// By the names that people see.
    tasks: BTreeSet<String>,
    instance: InstanceName,
    store: Arc<dyn BlobStore>,
    config: ExecutorConfig,
    /// Opened with the first fetch: most builds find all of them.
    executor: OnceCell<Arc<dyn ActionExecutor>>,
    slots: Semaphore,
}

impl ClientFetches {
    /// Creates executions for the graph of `index`.
    pub(crate) fn new(
        index: &TaskIndex,
        others: Arc<dyn Executions>,
        instance: InstanceName,
        store: Arc<dyn BlobStore>,
        directories: &Directories,
        bounds: Bounds,
    ) -> Self {
        let mut config = ExecutorConfig::new(directories.fetches());
        config.bounds = bounds;
        "client".clone_into(&mut config.worker_name);
        config.user_access = Some(user_access(std::env::home_dir().as_deref(), |name| {
            std::env::var_os(name)
        }));
        Self {
            tasks: index
                .tasks()
                .filter(|task| is_fetch(index, *task))
                .map(|task| index.display_name(task))
                .collect(),
            others,
            instance,
            store,
            config,
            executor: OnceCell::new(),
            slots: Semaphore::new(processors()),
        }
    }

    async fn executor(&self) -> Result<&Arc<dyn ActionExecutor>, CommandError> {
        let open = async {
            root_user::log();
            compose_executor(self.config.clone(), Arc::new(Arc::clone(&self.store))).await
        };
        Ok(self.executor.get_or_try_init(|| open).await?)
    }
}

/// True if a task fetches sources: it may use the network, and leaves the directory of downloads to others.
fn is_fetch(index: &TaskIndex, task: u32) -> bool {
    let settings = index.graph().settings.as_ref();
    let downloads = settings.map_or("", |settings| settings.download_directory.as_str());
    let task = index.task(task);
    may_use_network(task) && task.published_paths.iter().any(|path| path == downloads)
}

/// What fetchers get of a user with this home directory and these variables, as far as it is there.
fn user_access(home: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> UserAccess {
    let mut mounts: Vec<(PathBuf, String)> = vec![];
    for name in USER_FILES {
        if let Some(path) = home.map(|home| home.join(name)).filter(|path| path.exists()) {
            mounts.push((path, name.to_owned()));
        }
    }
    let mut variables = serde_json::Map::new();
    variables.insert("HOME".to_owned(), USER_HOME.into());
    for name in VARIABLES {
        if let Some(value) = variable(name).and_then(|value| value.into_string().ok()) {
            variables.insert(name.to_owned(), value.into());
        }
    }
    for name in FILE_VARIABLES {
        if let Some(path) = variable(name).map(PathBuf::from).filter(|path| path.exists()) {
            let place = format!("environment/{name}");
            variables.insert(name.to_owned(), format!("{USER_HOME}/{place}").into());
            mounts.push((path, place));
        }
    }
    let encoded = serde_json::Value::Object(variables).to_string();
    UserAccess {
        mounts,
        environment: vec![(FETCH_ENVIRONMENT.to_owned(), encoded)],
    }
}

#[async_trait]
impl Executions for ClientFetches {
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        if !self.tasks.contains(request.task) {
            return self.others.execute(request).await;
        }
        let _slot = self.slots.acquire().await;
        let executor = self.executor().await;
        let executor = executor.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let request = ActionRequest {
            instance: self.instance.clone(),
            action: request.action,
            queued: None,
            stages: None,
            cancellation: CancellationToken::new(),
        };
        Ok(executor.execute(request).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetchers_get_what_the_user_has() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".netrc"), "").unwrap();
        let socket = home.path().join("agent");
        std::fs::write(&socket, "").unwrap();
        let access = user_access(Some(home.path()), |name| match name {
            "https_proxy" => Some("http://proxy:3128".into()),
            "SSH_AUTH_SOCK" => Some(socket.clone().into()),
            "SSL_CERT_FILE" => Some("/nonexistent".into()),
            // Nothing else leaves the machine's environment.
            "SECRET" => Some("secret".into()),
            _ => None,
        });
        let mounts = [
            (home.path().join(".netrc"), ".netrc".to_owned()),
            (socket.clone(), "environment/SSH_AUTH_SOCK".to_owned()),
        ];
        assert_eq!(access.mounts, mounts);
        let [(name, value)] = &access.environment[..] else {
            panic!("{access:?}");
        };
        assert_eq!(name, FETCH_ENVIRONMENT);
        let expected = serde_json::json!({
            "HOME": "/run/bitzel",
            "SSH_AUTH_SOCK": "/run/bitzel/environment/SSH_AUTH_SOCK",
            "https_proxy": "http://proxy:3128",
        });
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(value).unwrap(),
            expected
        );
    }
}
