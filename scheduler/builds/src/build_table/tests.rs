use std::time::Duration;

use bitzel_access::{AuthenticationMethod, Identity, PermissionSet};
use bitzel_proto::{DigestFunction, InstanceName};
use uuid::Uuid;

use super::*;
use crate::build::{Ending, Owner};
use crate::event_log::TaskCounts;

fn id(number: u128) -> BuildId {
    // Numbers are at the end of an identifier; these tests ask for its start.
    BuildId(Uuid::from_u128(number << 120))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn request(user: &str, started: u64) -> BuildRequest {
    BuildRequest {
        instance: InstanceName::default(),
        owner: Owner {
            identity: Identity {
                name: user.to_owned(),
                groups: vec![],
                method: AuthenticationMethod::Token,
            },
            permissions: PermissionSet::all(),
        },
        plan: DigestFunction::Sha256.digest(b"plan"),
        targets: vec![],
        started: at(started),
    }
}

fn end(seconds: u64) -> BuildEnd {
    BuildEnd {
        ending: Ending::Succeeded,
        at: at(seconds),
        error: None,
        results: None,
        counts: TaskCounts::default(),
        events: vec![],
    }
}

fn table() -> BuildTable {
    BuildTable::new(BuildsConfig {
        max_running: 3,
        max_running_per_user: 2,
        max_ended_per_user: 2,
        ended_retention: Duration::from_secs(100),
        ..BuildsConfig::default()
    })
}

#[test]
fn bounds_the_builds_of_a_user_and_of_all() {
    let mut table = table();
    for number in 1..=2 {
        table.admit(id(number), request("alice", 0)).unwrap();
    }
    let refused = table.admit(id(3), request("alice", 0));
    assert!(
        matches!(refused, Err(BuildsError::TooManyBuildsOfUser { limit: 2, .. })),
        "{refused:?}"
    );
    table.admit(id(3), request("bob", 0)).unwrap();
    let refused = table.admit(id(4), request("carol", 0));
    assert!(
        matches!(refused, Err(BuildsError::TooManyBuilds(3))),
        "{refused:?}"
    );
    table.end(id(1), end(1));
    table.admit(id(4), request("carol", 0)).unwrap();
}

#[test]
fn a_repeated_call_is_no_new_build() {
    let mut table = table();
    assert_eq!(table.admit(id(1), request("alice", 0)).unwrap(), Admission::New);
    assert_eq!(
        table.admit(id(1), request("alice", 5)).unwrap(),
        Admission::Repeated
    );
    let taken = table.admit(id(1), request("bob", 0));
    assert!(matches!(taken, Err(BuildsError::IdTaken)), "{taken:?}");
}

#[test]
fn forgets_the_oldest_ended_builds_of_a_user() {
    let mut table = table();
    table.admit(id(9), request("bob", 0)).unwrap();
    assert_eq!(table.end(id(9), end(1)), []);
    for (number, forgotten) in [(1, vec![]), (2, vec![]), (3, vec![id(1)])] {
        table.admit(id(number), request("alice", 0)).unwrap();
        assert_eq!(
            table.end(id(number), end(u64::try_from(number).unwrap())),
            forgotten
        );
    }
    assert!(table.get(id(9)).is_some(), "it is somebody else's");
}

#[test]
fn forgets_ended_builds_after_a_time() {
    let mut table = table();
    table.admit(id(1), request("alice", 0)).unwrap();
    table.admit(id(2), request("alice", 0)).unwrap();
    table.end(id(1), end(10));
    assert_eq!(table.expire(at(109)), []);
    assert_eq!(table.expire(at(5)), [], "the clock was set back");
    assert_eq!(table.expire(at(110)), [id(1)]);
    assert!(table.get(id(2)).is_some(), "it runs");
}

#[test]
fn finds_builds_by_the_start_of_their_names() {
    let mut table = table();
    table.admit(id(0xab), request("alice", 1)).unwrap();
    table.admit(id(0xac), request("bob", 2)).unwrap();
    let all = |_: &BuildRequest| true;
    assert_eq!(table.find("ab", all).unwrap(), id(0xab));
    assert!(matches!(table.find("a", all), Err(BuildsError::Ambiguous(_))));
    assert!(matches!(table.find("b", all), Err(BuildsError::NotFound(_))));
    assert!(matches!(table.find("", all), Err(BuildsError::NotFound(_))));
    let own = |request: &BuildRequest| request.owner.identity.name == "bob";
    assert_eq!(table.find("a", own).unwrap(), id(0xac), "others are not seen");
    let newest: Vec<_> = table.newest_first().into_iter().map(|(id, _)| id).collect();
    assert_eq!(newest, [id(0xac), id(0xab)]);
}
