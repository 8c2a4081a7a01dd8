use bitzel_proto::reapi::Digest;
use bitzel_proto::reapi::platform::Property;

use super::*;

fn farm() -> GetFarmResponse {
    let platform = Platform {
        properties: vec![Property {
            name: "ISA".into(),
            value: "x86-64".into(),
        }],
    };
    let compiles = RunningAction {
        action_digest: Some(Digest::default()),
        user: "alice".into(),
        target: "zlib:do_compile".into(),
        mnemonic: "do_compile".into(),
        running_milliseconds: 62_900,
        ..RunningAction::default()
    };
    let hidden = RunningAction {
        running_milliseconds: 900,
        ..RunningAction::default()
    };
    let worker = |name: &str, running| Worker {
        name: name.into(),
        slots: 2,
        platform: Some(platform.clone()),
        running,
        ..Worker::default()
    };
    GetFarmResponse {
        workers: vec![
            worker("one", vec![compiles, hidden]),
            Worker {
                draining: true,
                pool: "large".into(),
                paused_milliseconds: 20_000,
                ..worker("two\u{1b}[2J", vec![])
            },
        ],
        waiting: vec![WaitingGroup {
            user: "bob".into(),
            requirements: Some(platform.clone()),
            actions: 1,
            waited_milliseconds: 3_000,
            unserved: true,
        }],
        waiting_actions: 1,
        builds: vec![],
    }
}

#[test]
fn text_shows_workers_and_what_waits() {
    assert_eq!(
        FarmView(&farm()).to_string(),
        "2 workers, 2 of 4 slots in use, 1 Action waiting\n\
         one: 2 of 2 slots\n\
         \x20    1m 2s  zlib:do_compile [do_compile], alice\n\
         \x20       0s  (of another instance)\n\
         two␛[2J (large): 0 of 2 slots, draining, paused for 20s: it handed Actions back\n\
         \n\
         waiting:\n\
         \x20       3s  1 Action of bob; no worker offers ISA=x86-64\n"
    );
}

#[test]
fn json_has_the_names_of_the_protocol() {
    let json = to_json(&farm());
    assert_eq!(json["workers"][0]["running"][0]["target"], "zlib:do_compile");
    assert_eq!(json["workers"][1]["paused_milliseconds"], 20_000);
    assert_eq!(json["waiting"][0]["requirements"][0]["name"], "ISA");
}
