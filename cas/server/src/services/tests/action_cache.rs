use bitzel_cas::testing::noise;
use bitzel_proto::reapi::action_cache_client::ActionCacheClient;
use bitzel_proto::reapi::{ActionResult, GetActionResultRequest, OutputFile, UpdateActionResultRequest};
use tonic::Code;

use super::*;

fn get(action: Digest) -> GetActionResultRequest {
    GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        ..GetActionResultRequest::default()
    }
}

fn update(action: Digest, result: ActionResult) -> UpdateActionResultRequest {
    UpdateActionResultRequest {
        action_digest: Some(action.to_wire()),
        action_result: Some(result),
        ..UpdateActionResultRequest::default()
    }
}

fn output_file(path: &str, digest: Digest) -> OutputFile {
    OutputFile {
        path: path.into(),
        digest: Some(digest.to_wire()),
        ..OutputFile::default()
    }
}

#[tokio::test]
async fn finds_only_results_of_known_actions() {
    let server = TestServer::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = sha256(b"action");
    let status = client.get_action_result(get(action)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let result = ActionResult {
        exit_code: 3,
        ..ActionResult::default()
    };
    client
        .update_action_result(update(action, result.clone()))
        .await
        .unwrap();
    let found = client.get_action_result(get(action)).await.unwrap().into_inner();
    assert_eq!(found, result);
    let elsewhere = GetActionResultRequest {
        instance_name: "other".into(),
        ..get(action)
    };
    let status = client.get_action_result(elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "instances do not share results");
}

#[tokio::test]
async fn stdout_and_contents_are_inlined_on_request_only() {
    let server = TestServer::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = sha256(b"action");
    let result = ActionResult {
        stdout_digest: Some(server.add(b"out").await.to_wire()),
        stderr_digest: Some(server.add(b"err").await.to_wire()),
        stderr_raw: b"err".to_vec(),
        output_files: vec![
            output_file("a", server.add(b"content a").await),
            output_file("b", server.add(b"content b").await),
        ],
        ..ActionResult::default()
    };
    client
        .update_action_result(update(action, result.clone()))
        .await
        .unwrap();

    let plain = client.get_action_result(get(action)).await.unwrap().into_inner();
    assert!(plain.stdout_raw.is_empty());
    assert!(plain.stderr_raw.is_empty());
    assert!(plain.output_files.iter().all(|file| file.contents.is_empty()));

    let wishes = GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["b".into()],
        ..get(action)
    };
    let inlined = client.get_action_result(wishes).await.unwrap().into_inner();
    assert_eq!(inlined.stdout_raw, b"out");
    assert_eq!(inlined.stderr_raw, b"err");
    assert_eq!(inlined.stdout_digest, result.stdout_digest, "the digest stays");
    assert_eq!(inlined.output_files[0].contents, b"");
    assert_eq!(inlined.output_files[1].contents, b"content b");
}

#[tokio::test]
async fn content_beyond_the_message_limit_stays_a_digest() {
    let server = TestServer::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = sha256(b"action");
    let large = noise(1, usize::try_from(MAX_BATCH_TOTAL_SIZE).unwrap());
    let result = ActionResult {
        stdout_digest: Some(server.add(&large).await.to_wire()),
        stderr_digest: Some(server.add(b"err").await.to_wire()),
        ..ActionResult::default()
    };
    client.update_action_result(update(action, result)).await.unwrap();
    let wishes = GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        ..get(action)
    };
    let found = client.get_action_result(wishes).await.unwrap().into_inner();
    assert!(found.stdout_raw.is_empty());
    assert_eq!(found.stderr_raw, b"err");
}

#[tokio::test]
async fn stdout_without_a_digest_is_never_lost() {
    let server = TestServer::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = sha256(b"action");
    let result = ActionResult {
        stdout_raw: b"only here".to_vec(),
        ..ActionResult::default()
    };
    client.update_action_result(update(action, result)).await.unwrap();
    let found = client.get_action_result(get(action)).await.unwrap().into_inner();
    assert_eq!(found.stdout_raw, b"only here");
}

#[tokio::test]
async fn malformed_updates_are_refused() {
    let server = TestServer::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = sha256(b"action");
    let no_result = UpdateActionResultRequest {
        action_result: None,
        ..update(action, ActionResult::default())
    };
    let no_action = UpdateActionResultRequest {
        action_digest: None,
        ..update(action, ActionResult::default())
    };
    let mut nameless = output_file("a", action);
    nameless.digest = None;
    let no_digest = ActionResult {
        output_files: vec![nameless],
        ..ActionResult::default()
    };
    for request in [no_result, no_action, update(action, no_digest)] {
        let status = client.update_action_result(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let status = client.get_action_result(get(action)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
