//! The two calls to the API of Kubernetes that bitzel makes: it lists pods, and sets one annotation of theirs.
//!
//! No client library: with its types of all objects of Kubernetes, it would be larger than the controller (decision 0053).

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitzel_scheduler::deletion_costs::{Mark, WorkerPod};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use crate::arguments::KubernetesApiArguments;
use crate::command_error::CommandError;

/// Directory in which a kubelet mounts the credentials of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Annotation that a `ReplicaSet` reads when it gets smaller.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Answers have names and annotations of pods, and not the rest of them.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const MERGE_PATCH: &str = "application/merge-patch+json";
/// Pods in one answer.
const PAGE_SIZE: &str = "500";
/// Time that the API server has for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pods of one namespace, by the API server.
#[derive(Debug)]
pub(crate) struct KubernetesPods {
    client: Client,
    /// URL of the pods.
    pods: Url,
    token_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct PodList {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<PodMetadata>,
}

#[derive(Debug, Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Debug, Deserialize)]
struct PodMetadata {
    metadata: ObjectMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMetadata {
    name: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

impl KubernetesPods {
    /// The pods that options, or the service account of this pod, lead to.
    pub(crate) fn open(arguments: &KubernetesApiArguments) -> Result<Self, CommandError> {
        let account = Path::new(SERVICE_ACCOUNT);
        let in_account = |given: &Option<PathBuf>, name: &str| {
            let default = account.join(name);
            given.clone().or_else(|| default.exists().then_some(default))
        };
        let namespace = match &arguments.namespace {
            Some(namespace) => namespace.clone(),
            None => read(&account.join("namespace"))
                .map_err(|error| error.hint("give --namespace NAME outside of a cluster"))?,
        };
        let address = match &arguments.kubernetes_api {
            Some(address) => address.clone(),
            None => cluster_address()?,
        };
        let in_address =
            |problem: String| CommandError::new(format!("--kubernetes-api {address}: {problem}"));
        let mut pods = Url::parse(&address).map_err(|error| in_address(error.to_string()))?;
        let path = ["api", "v1", "namespaces", namespace.trim(), "pods"];
        pods.path_segments_mut()
            .map_err(|()| in_address("it is not the address of a server".to_owned()))?
            .pop_if_empty()
            .extend(path);
        bitzel_rpc::crypto_provider::install();
        // The target of a redirect would receive the token.
        let mut client = Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = in_account(&arguments.kubernetes_ca, "ca.crt") {
            let authorities = Certificate::from_pem_bundle(read(&path)?.as_bytes());
            client = client.tls_certs_only(authorities?);
        }
        Ok(Self {
            client: client.build()?,
            pods,
            token_file: in_account(&arguments.kubernetes_token_file, "token"),
        })
    }

    /// Lists the pods with these labels that are not being deleted.
    pub(crate) async fn list(&self, selector: &str) -> Result<Vec<WorkerPod>, CommandError> {
        let mut pods = vec![];
        let mut next = String::new();
        loop {
            let mut url = self.pods.clone();
            url.query_pairs_mut()
                .append_pair("labelSelector", selector)
                .append_pair("limit", PAGE_SIZE)
                .append_pair("continue", &next);
            let request = self.client.get(url).header(ACCEPT, METADATA_ONLY);
            let page: PodList = self.send(request, "cannot list the pods").await?.json().await?;
            pods.extend(page.items.into_iter().filter_map(worker_pod));
            next = page.metadata.next;
            if next.is_empty() {
                return Ok(pods);
            }
        }
    }

    /// Sets the deletion cost of a pod. One that is gone needs none.
    pub(crate) async fn set_cost(&self, mark: &Mark) -> Result<(), CommandError> {
        let mut url = self.pods.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(&mark.pod);
        }
        let patch = json!({"metadata": {"annotations": {DELETION_COST: mark.cost.to_string()}}});
        let request = self
            .client
            .patch(url)
            .header(CONTENT_TYPE, MERGE_PATCH)
            .body(patch.to_string());
        match self.send(request, "cannot mark a pod").await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, request: RequestBuilder, failed: &str) -> Result<Response, CommandError> {
        let request = match &self.token_file {
            // The kubelet writes a new one every hour.
            Some(path) => request.bearer_auth(read(path)?.trim()),
            None => request,
        };
        let response = request.send().await.and_then(Response::error_for_status);
        response.map_err(|error| {
            let hint = match error.status() {
                Some(StatusCode::FORBIDDEN) => {
                    Some("the service account needs list and patch of pods in this namespace")
                }
                Some(StatusCode::UNAUTHORIZED) => Some("the token of the service account is not accepted"),
                _ => None,
            };
            // The address has nothing secret in it, and the token is in a header.
            let error = CommandError::from(error).context(failed);
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }
}

/// True if the API server has no such object any more.
fn is_gone(error: &CommandError) -> bool {
    let mut causes = std::iter::successors(Some(error.cause()), |error| error.source());
    causes.any(|error| {
        let status = error
            .downcast_ref::<reqwest::Error>()
            .and_then(reqwest::Error::status);
        status == Some(StatusCode::NOT_FOUND)
    })
}

fn worker_pod(pod: PodMetadata) -> Option<WorkerPod> {
    let ObjectMetadata {
        name,
        deletion_timestamp,
        annotations,
    } = pod.metadata;
    // Others may have written anything; what is not a number does not count for Kubernetes either.
    let cost = annotations.get(DELETION_COST).and_then(|cost| cost.parse().ok());
    deletion_timestamp.is_none().then_some(WorkerPod { name, cost })
}

/// Address of the API server, as a kubelet tells it to each pod.
fn cluster_address() -> Result<String, CommandError> {
    let variable = |name: &str| {
        std::env::var(name).map_err(|_| {
            CommandError::new(format!("this is no pod: the environment has no {name}"))
                .hint("give --kubernetes-api https://host:port outside of a cluster")
        })
    };
    let (host, port) = (
        variable("KUBERNETES_SERVICE_HOST")?,
        variable("KUBERNETES_SERVICE_PORT")?,
    );
    Ok(if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    })
}

fn read(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path)
        .map_err(|error| CommandError::from(error).context(format!("cannot read {}", path.display())))
}
