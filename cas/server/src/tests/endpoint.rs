use bitzel_rpc::endpoint::connect;

use crate::services::tests::TestServer;

#[tokio::test]
async fn tcp_and_unix_sockets_are_reached() {
    for server in [TestServer::start().await, TestServer::start_on_socket().await] {
        connect(&server.endpoint).await.unwrap();
    }
}
