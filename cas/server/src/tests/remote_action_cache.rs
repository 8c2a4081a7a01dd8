use bitzel_cas::testing::sha256;
use bitzel_cas::{ActionCache as _, Error, RemoteActionCache};
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tonic::Code;

use crate::services::tests::TestServer;

#[tokio::test]
async fn results_make_the_round_trip_under_their_instance() {
    let server = TestServer::start_on_socket().await;
    let cache = RemoteActionCache::new(server.channel.clone());
    let one = InstanceName::new("one").unwrap();
    let other = InstanceName::new("other/deeper").unwrap();
    let action = sha256(b"action");
    assert_eq!(cache.get(&one, action).await.unwrap(), None);
    let result = ActionResult {
        exit_code: 7,
        stdout_raw: b"text".to_vec(),
        ..ActionResult::default()
    };
    cache.put(&one, action, result.clone()).await.unwrap();
    assert_eq!(cache.get(&one, action).await.unwrap(), Some(result.clone()));
    assert_eq!(cache.get(&other, action).await.unwrap(), None);
    assert_eq!(server.cache.get(&one, action).await.unwrap(), Some(result));
    // The same bytes under the other function are another action.
    let blake3 = Digest::new(
        bitzel_proto::DigestFunction::Blake3,
        *action.hash(),
        action.size_bytes(),
    );
    assert_eq!(cache.get(&one, blake3).await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_update_is_an_error() {
    let server = TestServer::start().await;
    let cache = RemoteActionCache::new(server.channel.clone());
    let result = ActionResult {
        output_files: vec![bitzel_proto::reapi::OutputFile::default()],
        ..ActionResult::default()
    };
    let error = cache
        .put(&InstanceName::default(), sha256(b"x"), result)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Remote { source, .. } if source.code() == Code::InvalidArgument),
        "{error:?}"
    );
}
