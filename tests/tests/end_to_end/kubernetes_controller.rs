//! `bitzel kubernetes-controller` with real workers, and a stand-in for the API server of Kubernetes.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, patch};
use bitzel_proto::farm::GetFarmRequest;
use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_tests::{BitzelServer, Site, WorkerProcess, poll_until};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::held_actions::{Runs, assert_succeeded, channel, end, execute};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SELECTOR: &str = "app.kubernetes.io/name=bitzel,app.kubernetes.io/component=worker";

/// Pods of the namespace `farm`, as an API server has them.
#[derive(Default)]
struct Pods {
    objects: BTreeMap<String, Value>,
    /// Token that callers need.
    token: String,
    writes: usize,
}

type Shared = Arc<Mutex<Pods>>;

/// Stand-in for the API server: it lists pods by labels, one on each page, and applies merge patches.
struct ApiServer {
    address: SocketAddr,
    pods: Shared,
    /// Ends with the stand-in.
    _task: JoinSet<()>,
}

impl ApiServer {
    async fn start(token: &str) -> Self {
        let pods = Arc::new(Mutex::new(Pods {
            token: token.to_owned(),
            ..Pods::default()
        }));
        let routes = Router::new()
            .route("/api/v1/namespaces/farm/pods", get(list))
            .route("/api/v1/namespaces/farm/pods/{name}", patch(merge))
            .with_state(pods.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
        Self {
            address,
            pods,
            _task: task,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().expect("no panic")
    }

    fn add(&self, name: &str, component: &str, fields: &Value) {
        let labels = json!({"app.kubernetes.io/name": "bitzel", "app.kubernetes.io/component": component});
        let mut pod = json!({"metadata": {"name": name, "labels": labels}});
        merge_patch(&mut pod, fields);
        self.lock().objects.insert(name.to_owned(), pod);
    }

    fn cost(&self, name: &str) -> Option<String> {
        let pods = self.lock();
        let cost = &pods.objects[name]["metadata"]["annotations"][COST];
        cost.as_str().map(str::to_owned)
    }
}

fn authorized(pods: &Pods, headers: &HeaderMap) -> Result<(), StatusCode> {
    let expected = format!("Bearer {}", pods.token);
    let given = headers.get(header::AUTHORIZATION);
    let is_right = given.is_some_and(|given| given.as_bytes() == expected.as_bytes());
    is_right.then_some(()).ok_or(StatusCode::UNAUTHORIZED)
}

/// Parameters of a query, decoded.
fn parameters(query: &str) -> HashMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let decoded = |text: &str| {
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
            bytes.extend(&part.as_bytes()[2..]);
        }
        String::from_utf8(bytes).expect("text")
    };
    pairs
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect()
}

async fn list(
    State(pods): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let query = parameters(&query.unwrap_or_default());
    let pods = pods.lock().expect("no panic");
    authorized(&pods, &headers)?;
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    assert!(accepted.is_some_and(|kind| kind.contains("as=PartialObjectMetadataList")));
    let wanted: Vec<_> = query["labelSelector"]
        .split(',')
        .filter_map(|label| label.split_once('='))
        .collect();
    let matches = |pod: &&Value| {
        wanted
            .iter()
            .all(|(name, value)| pod["metadata"]["labels"][*name] == **value)
    };
    let matching: Vec<_> = pods.objects.values().filter(matches).collect();
    let first: usize = query["continue"].parse().unwrap_or_default();
    let next = if first + 1 < matching.len() {
        (first + 1).to_string()
    } else {
        String::new()
    };
    let page = matching.get(first..=first).unwrap_or_default();
    let items: Vec<_> = page
        .iter()
        .map(|pod| json!({"metadata": pod["metadata"]}))
        .collect();
    Ok(
        json!({"kind": "PartialObjectMetadataList", "metadata": {"continue": next}, "items": items})
            .to_string(),
    )
}

async fn merge(
    State(pods): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Result<String, StatusCode> {
    let mut pods = pods.lock().expect("no panic");
    authorized(&pods, &headers)?;
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind.as_bytes() != b"application/merge-patch+json") {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let patch = serde_json::from_str(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    pods.writes += 1;
    let pod = pods.objects.get_mut(&name).ok_or(StatusCode::NOT_FOUND)?;
    merge_patch(pod, &patch);
    Ok(pod.to_string())
}

/// RFC 7396.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("it is one").remove(name);
        } else {
            merge_patch(&mut target[name], value);
        }
    }
}

/// A running controller.
struct Controller {
    process: Child,
    admin: SocketAddr,
}

impl Controller {
    fn start(site: &Site, server: &BitzelServer, api: &ApiServer) -> Self {
        let mut process = site
            .bitzel("kubernetes-controller")
            .args(["--remote", &server.url(), "--selector", SELECTOR])
            .args(["--kubernetes-api", &format!("http://{}", api.address)])
            .args(["--kubernetes-token-file", "token", "--namespace", "farm"])
            .args(["--interval", "1", "--idle-time", "1", "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bitzel kubernetes-controller starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("standard output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("metrics are on http://");
        let address = address.and_then(|rest| rest.strip_suffix("/metrics"));
        Self {
            admin: address.expect("the address").parse().expect("an address"),
            process,
        }
    }

    /// The answer to a probe: everything after the protocol.
    fn readiness(&self) -> String {
        let mut connection = TcpStream::connect(self.admin).expect("it listens");
        write!(connection, "GET /readyz HTTP/1.0\r\n\r\n").expect("a request");
        let mut response = String::new();
        connection.read_to_string(&mut response).expect("an answer");
        response
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // One that has ended has no process to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Name of the worker that runs an Action.
async fn busy_worker(server: &BitzelServer) -> String {
    let mut farm = FarmClient::new(channel(&server.url()).await);
    let state = farm.get_farm(GetFarmRequest {}).await.expect("an answer");
    let workers = state.into_inner().workers;
    let mut busy = workers.into_iter().filter(|worker| !worker.running.is_empty());
    busy.next().expect("an Action runs").name
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_workers_get_the_lower_deletion_cost() {
    let (site, machines) = (Site::empty(), [Site::empty(), Site::empty()]);
    let server = BitzelServer::start_with(&site, &["--jobs", "0"]);
    let names = ["pool-6d4-x1", "pool-6d4-x2"];
    let _workers = [0, 1].map(|index| {
        let arguments = ["--name", names[index], "--jobs", "1", "--action-network", "host"];
        WorkerProcess::start_with(&machines[index], &server.url(), &arguments)
    });
    let api = ApiServer::start("first").await;
    std::fs::write(site.path("token"), "first\n").expect("a token");
    for name in names {
        api.add(name, "worker", &json!({}));
    }
    api.add("starting", "worker", &json!({}));
    let leaves = json!({"metadata": {"deletionTimestamp": "2026-11-30T20:00:00Z"}});
    api.add("leaving", "worker", &leaves);
    api.add("server", "server", &json!({}));
    let mut runs = Runs::listen().await;
    let mut client = execute(&server.url(), &runs, "a").await;
    let run = runs.started("a").await;
    let busy = busy_worker(&server).await;
    let idle = names.into_iter().find(|name| *name != busy).expect("another one");

    let controller = Controller::start(&site, &server, &api);
    let expect = |name: &str, cost: &str| {
        poll_until("the mark", || {
            (api.cost(name).as_deref() == Some(cost)).then_some(())
        });
    };
    expect(&busy, "100");
    expect(idle, "-100");
    poll_until("a round without an error", || {
        controller.readiness().starts_with("HTTP/1.0 200").then_some(())
    });

    // A token that is not accepted any more changes nothing, until the kubelet has written the next one.
    api.lock().token = "second".to_owned();
    poll_until("it is not ready", || {
        controller
            .readiness()
            .contains("the token of the service account is not accepted")
            .then_some(())
    });
    std::fs::write(site.path("token"), "second\n").expect("a token");
    poll_until("it is ready again", || {
        controller.readiness().starts_with("HTTP/1.0 200").then_some(())
    });

    end(run).await;
    assert_succeeded(&client.response().await);
    expect(&busy, "-100");
    for other in ["starting", "leaving", "server"] {
        assert_eq!(api.cost(other), None, "{other}");
    }
    assert_eq!(api.lock().writes, 3, "each change is one write");
}
