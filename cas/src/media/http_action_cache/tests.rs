use std::time::Duration;

use super::*;
use crate::media::http_cache::tests::{ScriptedServer, TestHttpServer};
use crate::testing::failing_action_cache::result;
use crate::testing::sha256;

#[tokio::test]
async fn results_are_kept_apart_by_instance() {
    let server = TestHttpServer::start(true, None).await;
    let cache = HttpActionCache::new(server.cache());
    let (one, other) = (
        InstanceName::new("one").unwrap(),
        InstanceName::new("other/deeper").unwrap(),
    );
    let action = sha256(b"action");
    assert_eq!(cache.get(&one, action).await.unwrap(), None);
    cache.put(&one, action, result(1)).await.unwrap();
    cache.put(&one, action, result(2)).await.unwrap();
    assert_eq!(cache.get(&one, action).await.unwrap(), Some(result(2)));
    assert_eq!(cache.get(&other, action).await.unwrap(), None);
}

#[tokio::test]
async fn invalid_result_is_an_error() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let server = ScriptedServer::start(&[answer], false).await;
    let cache = HttpActionCache::new(server.cache(Duration::from_secs(10)));
    let error = cache
        .get(&InstanceName::default(), sha256(b"x"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
}

#[tokio::test]
async fn silent_server_is_an_error_after_the_timeout() {
    let server = ScriptedServer::start(&[""], true).await;
    let cache = HttpActionCache::new(server.cache(Duration::from_millis(200)));
    let error = cache
        .get(&InstanceName::default(), sha256(b"x"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::BackEnd { .. }), "{error:?}");
}
