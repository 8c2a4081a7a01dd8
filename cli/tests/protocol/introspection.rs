//! Health checks and reflection, for load balancers and tools.

use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::server::Server;

fn asked(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_health_of_the_server_and_not_of_unknown_services() {
    let server = Server::cache().await;
    let mut client = HealthClient::new(server.channel.clone());
    let response = client.check(asked("")).await.unwrap().into_inner();
    assert_eq!(response.status(), ServingStatus::Serving);
    let status = client.check(asked("no.such.Service")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_health_watchers_that_the_server_ends() {
    let mut server = Server::cache().await;
    let mut client = HealthClient::new(server.channel.clone());
    let mut watched = client.watch(asked("")).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.terminate();
    let second = watched.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    // A watch does not hold up the end of the server.
    assert_eq!(watched.message().await.unwrap(), None);
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_a_health_watch_of_an_unknown_service_open() {
    let mut server = Server::cache().await;
    let mut client = HealthClient::new(server.channel.clone());
    let mut watched = client.watch(asked("no.such.Service")).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    // The stream is still open after another call on the same connection.
    client.check(asked("")).await.unwrap();
    let mut next = Box::pin(watched.message());
    assert!(futures::poll!(&mut next).is_pending());
    server.terminate();
    let second = next.await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::ServiceUnknown);
    assert_eq!(watched.message().await.unwrap(), None);
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reflects_every_service() {
    let server = Server::farm().await;
    let ask = async |message: MessageRequest| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let mut client = ServerReflectionClient::new(server.channel.clone());
        let requests = tokio_stream::iter([request]);
        let mut answers = client.server_reflection_info(requests).await?.into_inner();
        let answer = answers.message().await?.unwrap();
        Ok::<_, Status>(answer.message_response.unwrap())
    };
    let all = MessageRequest::ListServices(String::new());
    let MessageResponse::ListServicesResponse(listed) = ask(all).await.unwrap() else {
        panic!("no list");
    };
    let names: Vec<_> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "build.bazel.remote.asset.v1.Fetch",
        "build.bazel.remote.asset.v1.Push",
        "build.bazel.remote.execution.v2.ActionCache",
        "build.bazel.remote.execution.v2.Capabilities",
        "build.bazel.remote.execution.v2.ContentAddressableStorage",
        "build.bazel.remote.execution.v2.Execution",
        "google.bytestream.ByteStream",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
        let described = ask(MessageRequest::FileContainingSymbol(name.to_owned()))
            .await
            .unwrap();
        let MessageResponse::FileDescriptorResponse(files) = described else {
            panic!("{name}: {described:?}");
        };
        assert!(!files.file_descriptor_proto.is_empty(), "{name}");
    }
    let unknown = ask(MessageRequest::FileContainingSymbol("no.such.Service".to_owned())).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}
