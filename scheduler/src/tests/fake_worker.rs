//! Worker that implements the protocol and runs nothing.

use bitzel_proto::reapi::{ActionResult, ExecuteResponse};
use bitzel_proto::worker::{
    Assign, Completed, Drain, Hello, SchedulerMessage, WorkerMessage, scheduler_message, worker_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::farm::{Farm, platform, with_timeout};

/// Dropping it breaks its stream.
pub(super) struct FakeWorker {
    pub(super) outbound: mpsc::Sender<WorkerMessage>,
    pub(super) inbound: Streaming<SchedulerMessage>,
}

/// Secret of a worker's only instance.
pub(super) fn secret(name: &str) -> Vec<u8> {
    format!("{name:*<16.16}").into_bytes()
}

pub(super) fn hello(name: &str, slots: u32, properties: &[(&str, &str)]) -> worker_message::Message {
    worker_message::Message::Hello(Hello {
        worker_name: name.to_owned(),
        slots,
        platform: Some(platform(properties)),
        instance_secret: secret(name),
        ..Default::default()
    })
}

/// First message of a worker that comes back with a lease.
pub(super) fn hello_again(name: &str, slots: u32, lease: &str) -> worker_message::Message {
    worker_message::Message::Hello(Hello {
        worker_name: name.to_owned(),
        slots,
        platform: Some(platform(&[("OSFamily", "linux")])),
        leases: vec![lease.to_owned()],
        instance_secret: secret(name),
        ..Default::default()
    })
}

impl FakeWorker {
    /// Connects a worker on Linux.
    pub(super) async fn connect(farm: &Farm, name: &str, slots: u32) -> Self {
        Self::connect_with(farm, hello(name, slots, &[("OSFamily", "linux")])).await
    }

    pub(super) async fn connect_with(farm: &Farm, first: worker_message::Message) -> Self {
        let (outbound, messages) = mpsc::channel(16);
        let mut client = farm.worker_queue_client();
        let inbound = client
            .work(ReceiverStream::new(messages))
            .await
            .unwrap()
            .into_inner();
        let worker = Self { outbound, inbound };
        worker.send(first).await;
        worker
    }

    pub(super) async fn send(&self, message: worker_message::Message) {
        let message = Some(message);
        self.outbound.send(WorkerMessage { message }).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Result<Option<scheduler_message::Message>, Status> {
        let message = with_timeout(self.inbound.message()).await?;
        Ok(message.and_then(|message| message.message))
    }

    pub(super) async fn assigned(&mut self) -> Assign {
        match self.next().await {
            Ok(Some(scheduler_message::Message::Assign(assign))) => assign,
            other => panic!("not an assignment: {other:?}"),
        }
    }

    pub(super) async fn cancelled(&mut self) -> String {
        match self.next().await {
            Ok(Some(scheduler_message::Message::Cancel(cancel))) => cancel.lease,
            other => panic!("not a cancellation: {other:?}"),
        }
    }

    pub(super) async fn acknowledged(&mut self) -> String {
        match self.next().await {
            Ok(Some(scheduler_message::Message::Acknowledged(acknowledged))) => acknowledged.lease,
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }

    pub(super) async fn complete(&self, lease: &str, response: ExecuteResponse) {
        self.send(worker_message::Message::Completed(Completed {
            lease: lease.to_owned(),
            response: Some(response),
        }))
        .await;
    }

    pub(super) async fn drain(&self) {
        self.send(worker_message::Message::Drain(Drain {})).await;
    }

    /// Takes one Action and completes it, with `response`.
    pub(super) async fn run(&mut self, response: ExecuteResponse) -> Assign {
        let assign = self.assigned().await;
        self.complete(&assign.lease, response).await;
        assert_eq!(self.acknowledged().await, assign.lease);
        assign
    }
}

/// Response of a worker whose command ended with `exit_code`.
pub(super) fn exited(exit_code: i32) -> ExecuteResponse {
    ExecuteResponse {
        result: Some(ActionResult {
            exit_code,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Response of a worker that could not run the Action.
pub(super) fn failed(code: tonic::Code, message: &str) -> ExecuteResponse {
    ExecuteResponse {
        status: Some(bitzel_proto::google::rpc::Status {
            code: code.into(),
            message: message.to_owned(),
            details: vec![],
        }),
        ..Default::default()
    }
}
