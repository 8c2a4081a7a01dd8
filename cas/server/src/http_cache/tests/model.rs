//! Bitzel's client of the protocol with this server, as a store.

use bitzel_cas::media::http_blob_store::HttpBlobStore;
use bitzel_cas::media::http_cache::{HttpCache, HttpCacheOptions};
use bitzel_cas::testing::model;
use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_client_and_the_server_are_a_store_together(steps in prop::collection::vec(model::step(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = TestServer::start().await;
            let open = async |_: Option<HttpBlobStore>| {
                HttpBlobStore::new(HttpCache::new(HttpCacheOptions::new(server.url.clone())).unwrap())
            };
            model::run(steps, open).await;
        });
    }
}
