//! Memory of the server under downloads that nobody reads.

use std::time::Duration;

use bitzel_proto::Digest;
use bitzel_proto::google::bytestream::{ReadRequest, ReadResponse};
use tokio::task::JoinSet;
use tonic::Streaming;

use crate::client::Client;
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;
use crate::streams::{self, Content};

const BLOB_MEBIBYTES: usize = 96;
const CONNECTIONS: usize = 4;
const STREAMS_PER_CONNECTION: usize = 500;
/// Time that servers have to begin all downloads. Some let downloads wait.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that servers have to return the memory.
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens 2,000 downloads of one blob and reads none of them. The server has to be a new one: its highest memory is measured.
pub(crate) async fn measure(server: &MeasuredServer) -> Vec<Measurement> {
    let client = Client::connect(server).await;
    let content = Content::of_length(1 << 60, BLOB_MEBIBYTES);
    let digest = content.digest();
    streams::write(&client, &content, digest).await;
    let mut downloads = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(server).await;
        for _ in 0..STREAMS_PER_CONNECTION {
            downloads.spawn(open(client.clone(), digest));
        }
    }
    let open = downloads.join_all().await;
    let highest = server.megabytes("VmHWM:");
    drop(open);
    tokio::time::sleep(RETURN_TIMEOUT).await;
    vec![
        Measurement::new("2,000 unread downloads, resident memory, highest", highest, "MB"),
        Measurement::new(
            "2,000 unread downloads, resident memory, 30 s later",
            server.megabytes("VmRSS:"),
            "MB",
        ),
    ]
}

/// Opens a download; `None` if the server lets it wait or refuses it.
async fn open(client: Client, digest: Digest) -> Option<Streaming<ReadResponse>> {
    let request = ReadRequest {
        resource_name: format!("blobs/{}/{}", digest.hash_hex(), digest.size_bytes()),
        ..ReadRequest::default()
    };
    let mut stream = client.byte_stream();
    let opened = tokio::time::timeout(OPEN_TIMEOUT, stream.read(request)).await;
    opened.ok()?.ok().map(tonic::Response::into_inner)
}
