use std::collections::VecDeque;

use bitzel_proto::google::protobuf::Any;
use bitzel_proto::reapi::execution_server::{Execution as Service, ExecutionServer};
use futures::stream;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::Response;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::*;

type Operations = stream::Iter<std::vec::IntoIter<Result<Operation, Status>>>;
/// Messages of one call, which end with the stream's status if there is one.
type Answer = Result<Vec<Result<Operation, Status>>, Status>;
type Answers = Arc<Mutex<VecDeque<(&'static str, Answer)>>>;

/// Server that answers each call with the next line of a script.
struct ScriptedServer(Answers);

impl ScriptedServer {
    fn answer(&self, method: &str) -> Result<Response<Operations>, Status> {
        let (expected, answer) = self
            .0
            .lock()
            .pop_front()
            .expect("a call after the end of the script");
        assert_eq!(method, expected);
        Ok(Response::new(stream::iter(answer?)))
    }
}

#[tonic::async_trait]
impl Service for ScriptedServer {
    type ExecuteStream = Operations;
    type WaitExecutionStream = Self::ExecuteStream;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let path = request.metadata().get(REMAINING_PATH).expect("a remaining path");
        assert_eq!(path, "1234", "in milliseconds");
        let trees = request.metadata().get(INPUT_TREES).expect("input trees");
        assert_eq!(trees.len(), 16, "one tree");
        self.answer("execute")
    }

    async fn wait_execution(
        &self,
        _: Request<WaitExecutionRequest>,
    ) -> Result<Response<Self::WaitExecutionStream>, Status> {
        self.answer("wait")
    }
}

fn running() -> Operation {
    Operation {
        name: "operation".to_owned(),
        ..Default::default()
    }
}

fn done() -> Operation {
    Operation {
        name: "operation".to_owned(),
        done: true,
        result: Some(operation::Result::Response(Any::default())),
        ..Default::default()
    }
}

/// Executes against a script, and returns the outcome and the events.
async fn execute(script: Vec<(&'static str, Answer)>) -> (Result<ExecuteResponse, Status>, Vec<BuildEvent>) {
    let answers = Arc::new(Mutex::new(VecDeque::from(script)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_service(ExecutionServer::new(ScriptedServer(Arc::clone(&answers))))
        .serve_with_incoming(TcpIncoming::from(listener));
    // Ends with the test's runtime.
    tokio::spawn(server);
    let channel = bitzel_rpc::endpoint::connect(&format!("grpc://{address}"))
        .await
        .unwrap();
    let (events, mut receiver) = mpsc::unbounded_channel();
    let client = RemoteExecutions::new(channel, InstanceName::default(), String::new(), events);
    let action = bitzel_proto::DigestFunction::Sha256.digest(b"action");
    let request = ExecutionRequest {
        action,
        skip_cache_lookup: false,
        remaining_path: Duration::from_millis(1234),
        input_trees: &[action],
        task: "mc:x:zlib:do_compile",
    };
    let outcome = client.execute(request).await;
    assert!(answers.lock().is_empty(), "the script was not played to its end");
    drop(client);
    let mut told = Vec::new();
    while let Some(event) = receiver.recv().await {
        told.push(event);
    }
    (outcome, told)
}

#[tokio::test]
async fn tells_when_an_execution_is_lost_and_when_it_goes_on() {
    let (outcome, events) = execute(vec![
        (
            "execute",
            Ok(vec![Ok(running()), Err(Status::unavailable("shutting down"))]),
        ),
        ("wait", Err(Status::unavailable("starting"))),
        ("wait", Ok(vec![Ok(running()), Ok(done())])),
    ])
    .await;
    outcome.unwrap();
    let [
        BuildEvent::ExecutionInterrupted {
            recipe,
            task,
            condition: ServerCondition::Unreachable,
            reason,
            ..
        },
        BuildEvent::ExecutionInterrupted { .. },
        BuildEvent::ExecutionResumed { .. },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((recipe.as_str(), task.as_str()), ("mc:x:zlib", "do_compile"));
    assert_eq!(reason, "shutting down");
}

#[tokio::test]
async fn starts_again_when_the_server_forgot_the_operation() {
    let (outcome, events) = execute(vec![
        (
            "execute",
            Ok(vec![Ok(running()), Err(Status::unavailable("shutting down"))]),
        ),
        ("wait", Err(Status::not_found("no such operation"))),
        ("execute", Ok(vec![Ok(done())])),
    ])
    .await;
    outcome.unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
}

#[tokio::test]
async fn does_not_repeat_a_call_that_is_refused() {
    let (outcome, events) = execute(vec![("execute", Err(Status::permission_denied("not for you")))]).await;
    assert_eq!(outcome.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(events, []);
}
