use std::net::Ipv4Addr;
use std::sync::mpsc;

use futures::poll;

use super::*;

/// Check that says when it runs, and goes on when it is told to.
fn check(running: &mpsc::Sender<()>) -> (impl FnOnce() -> bool + Send + 'static, mpsc::Sender<()>) {
    let (go_on, told) = mpsc::channel::<()>();
    let running = running.clone();
    let verify = move || {
        running.send(()).unwrap();
        let _ = told.recv();
        true
    };
    (verify, go_on)
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// The thread of a check cannot be stopped, so it counts when its caller has gone.
#[tokio::test(flavor = "multi_thread")]
async fn f21_checks_of_callers_that_have_gone_count() {
    let checks = Arc::new(PasswordChecks::default());
    let (running, runs) = mpsc::channel();
    let mut held = Vec::new();
    for number in 0..3 {
        let (verify, go_on) = check(&running);
        held.push(go_on);
        let mut call = Box::pin(checks.run(vec![number], Some(address(1)), verify));
        assert!(poll!(&mut call).is_pending());
    }
    // All callers have gone. Two checks run, and the third only when one of them has ended.
    let runs = tokio::task::spawn_blocking(move || {
        runs.recv().unwrap();
        runs.recv().unwrap();
        runs
    });
    let runs = runs.await.unwrap();
    assert_eq!(checks.permits.available_permits(), 0);
    assert!(runs.try_recv().is_err());
    held.clear();
    tokio::task::spawn_blocking(move || runs.recv().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn f21_waiting_checks_of_one_address_are_bounded() {
    let checks = Arc::new(PasswordChecks::default());
    let (running, _runs) = mpsc::channel();
    let mut held = Vec::new();
    let mut calls = Vec::new();
    for number in 0..16 {
        let (verify, go_on) = check(&running);
        held.push(go_on);
        let mut call = Box::pin(checks.run(vec![number], Some(address(1)), verify));
        assert!(poll!(&mut call).is_pending());
        calls.push(call);
    }
    let refused = checks.run(vec![100], Some(address(1)), || true).await;
    assert!(matches!(refused, Err(Refusal::Unavailable(_))), "{refused:?}");
    // The same password again is no further check, and others are not refused.
    let mut again = Box::pin(checks.run(vec![0], Some(address(1)), || panic!("it is checked already")));
    assert!(poll!(&mut again).is_pending());
    let other = checks.run(vec![101], Some(address(2)), || true);
    held.clear();
    assert_eq!(other.await, Ok(true));
    assert_eq!(again.await, Ok(true));
    for call in calls {
        assert_eq!(call.await, Ok(true));
    }
    assert!(checks.ongoing.lock().by_address.is_empty());
}
