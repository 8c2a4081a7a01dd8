//! Way of a call to the server that leads.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status, Streaming};

use super::forwarded_identity::ForwardedIdentities;
use super::group::{Reign, Role};
use super::leader_connection::{LeaderConnection, is_forwarded, left_status};

/// Maximum time that a call waits for a leader. More than a change of leaders takes.
pub(super) const MAX_LEADER_WAIT: Duration = Duration::from_secs(15);
/// Pause after an attempt to reach a leader that has ended, and that no other has followed yet.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Role of this server, and what it needs to forward calls.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) role: watch::Receiver<Role>,
    pub(super) identities: Arc<ForwardedIdentities>,
    pub(super) shutdown: CancellationToken,
}

/// Destination of a call.
pub(super) enum Destination {
    /// The queue of this server.
    Own(Arc<Reign>),
    /// The leader, and a channel to it.
    Leader(Arc<LeaderConnection>, bitzel_rpc::endpoint::Channel),
}

impl Router {
    /// Finds the leader, and waits for one until `deadline` if there is none.
    pub(super) async fn destination(
        &self,
        metadata: &MetadataMap,
        deadline: Instant,
    ) -> Result<Destination, Status> {
        tokio::select! {
            found = self.find_leader(metadata) => found,
            () = self.shutdown.cancelled() => Err(shutting_down()),
            () = tokio::time::sleep_until(deadline) => Err(Status::unavailable(
                "no scheduler leads at the moment (can they reach PostgreSQL?); try again",
            )),
        }
    }

    async fn find_leader(&self, metadata: &MetadataMap) -> Result<Destination, Status> {
        let mut role = self.role.clone();
        loop {
            let present = role.borrow_and_update().clone();
            match present {
                Role::Leads(reign) if reign.tenure.is_valid() => return Ok(Destination::Own(reign)),
                Role::Follows(_) if is_forwarded(metadata) => return Err(not_leading()),
                Role::Follows(leader) => {
                    // The attempt may hang when the leader's machine is gone.
                    let channel = tokio::select! {
                        channel = leader.channel() => channel,
                        _ = role.changed() => continue,
                    };
                    match channel {
                        Ok(channel) => return Ok(Destination::Leader(leader, channel)),
                        Err(status) => {
                            tracing::debug!(reason = status.message(), "the leader is not reached");
                        }
                    }
                    self.another_leader(&leader).await;
                }
                Role::Leads(_) | Role::Unknown => {
                    if role.changed().await.is_err() {
                        return Err(shutting_down());
                    }
                }
            }
        }
    }

    /// Waits until another server leads than this one, which cannot be reached, or for a pause before the next attempt.
    pub(super) async fn another_leader(&self, unreachable: &LeaderConnection) {
        // Either is a reason to look again.
        let _ = tokio::time::timeout(RETRY_PAUSE, unreachable.left().cancelled()).await;
    }
}

pub(super) fn not_leading() -> Status {
    Status::unavailable("this scheduler does not lead any more; try again")
}

fn shutting_down() -> Status {
    Status::unavailable("the server is shutting down; try again")
}

/// Answer to a call whose responses are a stream.
pub(super) type StreamedAnswer<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

/// Answer of this server's queue, or none if it does not lead any more: that it does not know an operation says nothing
/// about the new leader.
pub(super) fn answer<T: Send + 'static>(
    reign: Arc<Reign>,
    response: Result<Response<impl Stream<Item = Result<T, Status>> + Send + 'static>, Status>,
) -> Option<StreamedAnswer<T>> {
    if !reign.tenure.is_valid() {
        return None;
    }
    Some(response.map(|response| response.map(|responses| while_leading(reign, responses))))
}

/// A response that is shown only as long as this server leads. It ends with `UNAVAILABLE`, so that the caller looks for
/// the new leader.
pub(super) fn while_leading<T: Send + 'static>(
    reign: Arc<Reign>,
    responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    let ended = || {
        Err(Status::unavailable(
            "this scheduler does not lead any more; try again",
        ))
    };
    let state = Some((reign, responses.boxed()));
    stream::unfold(state, move |state| async move {
        let (reign, mut responses) = state?;
        let response = tokio::select! {
            biased;
            () = reign.tenure.ended().cancelled() => return Some((ended(), None)),
            response = responses.next() => response?,
        };
        // A process that was stopped may go on here.
        if reign.tenure.is_valid() {
            Some((response, Some((reign, responses))))
        } else {
            Some((ended(), None))
        }
    })
    .boxed()
}

/// A response of the leader, which ends when another server leads: the connection to a machine that hangs stays open.
pub(super) fn while_following<T: Send + 'static>(
    leader: &LeaderConnection,
    responses: Streaming<T>,
) -> BoxStream<'static, Result<T, Status>> {
    let state = Some((leader.left().clone(), responses));
    stream::unfold(state, move |state| async move {
        let (left, mut responses) = state?;
        tokio::select! {
            biased;
            () = left.cancelled() => {
                Some((Err(left_status()), None))
            }
            response = responses.next() => match response? {
                Ok(response) => Some((Ok(response), Some((left, responses)))),
                Err(status) => Some((Err(passed_on(status)), None)),
            },
        }
    })
    .boxed()
}

/// True if a call failed because the connection to the leader is broken: its status is made on this machine.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// True if a call failed because its leader is gone, so that the next one may answer it.
pub(super) fn is_leader_gone(leader: &LeaderConnection, status: &Status) -> bool {
    leader.left().is_cancelled() || is_broken(status)
}

/// The leader's status for the caller. tonic reports a broken connection with other codes than `UNAVAILABLE`, as if the
/// call had failed.
pub(super) fn passed_on(status: Status) -> Status {
    if is_broken(&status) {
        Status::unavailable(format!(
            "the scheduler that leads is gone: {}; try again",
            status.message()
        ))
    } else {
        status
    }
}
