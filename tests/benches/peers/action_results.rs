//! `GetActionResult` of complete results, from 64 clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_proto::Digest;
use bitzel_proto::reapi::{ActionResult, GetActionResultRequest, OutputFile, UpdateActionResultRequest};
use tokio::task::JoinSet;

use crate::client::{Client, FUNCTION, blob};
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;

const CLIENTS: usize = 64;
const RESULT_COUNT: usize = 1_000;
const OUTPUTS_PER_RESULT: usize = 4;
const WARM_UP_TIME: Duration = Duration::from_secs(1);
const MEASURED_TIME: Duration = Duration::from_secs(5);

fn outputs(result: usize) -> Vec<(Digest, Vec<u8>)> {
    (0..OUTPUTS_PER_RESULT)
        .map(|output| blob(format!("output {output} of {result}").into_bytes()))
        .collect()
}

/// Stores results with all their outputs; returns the digests of their Actions.
pub(crate) async fn store(client: &Client) -> Arc<Vec<Digest>> {
    let mut actions = vec![];
    for result in 0..RESULT_COUNT {
        let outputs = outputs(result);
        let output_files = outputs
            .iter()
            .enumerate()
            .map(|(output, (digest, _))| OutputFile {
                path: format!("out/{output}"),
                digest: Some(digest.to_wire()),
                ..OutputFile::default()
            })
            .collect();
        // Some servers require the Action in the store.
        let action = blob(format!("action {result}").into_bytes());
        let digest = action.0;
        client.upload(outputs.into_iter().chain([action]).collect()).await;
        let request = UpdateActionResultRequest {
            action_digest: Some(digest.to_wire()),
            action_result: Some(ActionResult {
                output_files,
                ..ActionResult::default()
            }),
            digest_function: FUNCTION.to_wire(),
            ..UpdateActionResultRequest::default()
        };
        client.action_cache().update_action_result(request).await.unwrap();
        actions.push(digest);
    }
    Arc::new(actions)
}

pub(crate) async fn get(client: &Client, action: Digest) {
    let request = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        digest_function: FUNCTION.to_wire(),
        ..GetActionResultRequest::default()
    };
    let result = client.action_cache().get_action_result(request).await.unwrap();
    assert_eq!(result.into_inner().output_files.len(), OUTPUTS_PER_RESULT);
}

pub(crate) async fn measure(server: &MeasuredServer) -> Vec<Measurement> {
    let actions = store(&Client::connect(server).await).await;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::connect(server).await;
        let actions = Arc::clone(&actions);
        clients.spawn(async move {
            let mut durations = vec![];
            for index in number.. {
                let called = Instant::now();
                if called - start > WARM_UP_TIME + MEASURED_TIME {
                    break;
                }
                get(&client, actions[index * 31 % RESULT_COUNT]).await;
                if called - start > WARM_UP_TIME {
                    durations.push(called.elapsed());
                }
            }
            durations
        });
    }
    let durations = clients.join_all().await.concat();
    vec![
        Measurement::rate(
            "GetActionResult, 64 clients",
            durations.len() as f64,
            MEASURED_TIME,
            "1/s",
        ),
        Measurement::quantile("GetActionResult, 64 clients, p99", &durations, 0.99),
    ]
}
