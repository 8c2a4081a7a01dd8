use std::net::Ipv4Addr;

use tokio::time::advance;

use super::*;
use crate::incoming::admission::Admission;

fn connection() -> Arc<ConnectionState> {
    Admission::new(&Limits::default())
        .admit(Ipv4Addr::LOCALHOST.into())
        .unwrap()
}

fn outcome(state: &ConnectionState) -> Option<CloseReason> {
    match state.review() {
        Review::Close(reason) => Some(reason),
        Review::NextAt(next) => {
            assert!(next > Instant::now(), "the next look is later");
            None
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f6_a_connection_without_permitted_calls_is_closed() {
    let state = connection();
    advance(Duration::from_secs(19)).await;
    assert_eq!(outcome(&state), None);
    advance(Duration::from_secs(1)).await;
    assert_eq!(outcome(&state), Some(CloseReason::NotAuthenticated));
}

#[tokio::test(start_paused = true)]
async fn f6_an_idle_connection_is_closed() {
    for (is_authenticated, seconds) in [(false, 60), (true, 3600)] {
        let state = connection();
        state.permit(is_authenticated);
        let call = state.begin_call();
        advance(Duration::from_hours(2)).await;
        assert_eq!(outcome(&state), None, "a call is under way");
        drop(call);
        advance(Duration::from_secs(seconds - 1)).await;
        assert_eq!(outcome(&state), None);
        advance(Duration::from_secs(2)).await;
        assert_eq!(outcome(&state), Some(CloseReason::Idle));
    }
}

#[tokio::test(start_paused = true)]
async fn f3_unread_data_is_given_up_once_others_wait() {
    let state = connection();
    state.permit(true);
    let call = state.begin_call();
    let piece = state.unsent();
    // HTTP/2 keeps the last data of a call that has ended.
    drop(call);
    advance(Duration::from_secs(45)).await;
    assert_eq!(outcome(&state), None, "nobody waits");
    let waiting = state.responses().wait();
    assert_eq!(outcome(&state), Some(CloseReason::Unread));
    state.sent(piece);
    assert_eq!(outcome(&state), None, "the client has read");
    let _piece = state.unsent();
    advance(Duration::from_secs(20)).await;
    assert_eq!(outcome(&state), None, "it has some time to read");
    drop(waiting);
}
