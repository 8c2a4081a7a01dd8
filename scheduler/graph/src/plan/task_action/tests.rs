use bitzel_proto::graph::PathPair;
use prost::Message;

use super::*;
use crate::plan::signature::TaskRoot;
use crate::plan::tree::DIGEST_FUNCTION;

fn environment() -> Environment {
    Environment {
        platform: vec![
            ("OSFamily".to_owned(), "linux".to_owned()),
            ("ISA".to_owned(), "x86-64".to_owned()),
        ],
        root: TaskRoot::OfWorker("debian-12-aa".to_owned()),
        runner_version: "r".to_owned(),
        bitbake_version: "2".to_owned(),
    }
}

fn recipe() -> Recipe {
    Recipe {
        work_directory: "build/tmp/work/zlib".to_owned(),
        other_private_directories: vec!["build/tmp/work-shared/zlib".to_owned()],
        ..Recipe::default()
    }
}

fn planned(task: &Task) -> (Action, Command) {
    let planned = task_action(&environment(), &recipe(), task, DIGEST_FUNCTION.digest(b"root"));
    let [action, command] = planned.blobs.map(|(_, bytes)| bytes);
    (Action::decode(action).unwrap(), Command::decode(command).unwrap())
}

fn properties(action: &Action) -> Vec<String> {
    let properties = &action.platform.as_ref().unwrap().properties;
    properties
        .iter()
        .map(|property| format!("{}={}", property.name, property.value))
        .collect()
}

#[test]
fn outputs_are_private_trees_published_paths_and_logs() {
    let task = Task {
        published_paths: vec!["downloads/z.tar".to_owned()],
        ..Task::default()
    };
    let (_, command) = planned(&task);
    let expected = [
        "bitzel/beside",
        "bitzel/log",
        "build/tmp/work-shared/zlib",
        "build/tmp/work/zlib",
        "downloads/z.tar",
    ];
    assert_eq!(command.output_paths, expected);
    let names: Vec<_> = command
        .environment_variables
        .iter()
        .map(|variable| variable.name.as_str())
        .collect();
    assert!(
        names.is_sorted(),
        "the specification wants environment variables sorted: {names:?}"
    );
}

#[test]
fn an_image_root_is_asked_for_by_its_digest() {
    let digest = DIGEST_FUNCTION.digest(b"image");
    let environment = Environment {
        root: TaskRoot::Image(digest),
        ..environment()
    };
    let planned = task_action(
        &environment,
        &recipe(),
        &Task::default(),
        DIGEST_FUNCTION.digest(b"root"),
    );
    let [action, _] = planned.blobs.map(|(_, bytes)| bytes);
    assert_eq!(
        properties(&Action::decode(action).unwrap()),
        [
            "ISA=x86-64".to_owned(),
            "OSFamily=linux".to_owned(),
            "root-identity=image".to_owned(),
            format!("root-image={digest}"),
            "undeclared-writes=error".to_owned()
        ]
    );
}

#[test]
fn only_fetching_gets_the_network() {
    let fetch = Task {
        name: "do_fetch".to_owned(),
        network: true,
        ..Task::default()
    };
    assert_eq!(
        properties(&planned(&fetch).0),
        [
            "ISA=x86-64",
            "OSFamily=linux",
            "network=on",
            "root-identity=debian-12-aa",
            "undeclared-writes=error"
        ]
    );
    // OE's sstate.bbclass sets the flag on every sstate task.
    let package = Task {
        name: "do_package".to_owned(),
        network: true,
        sstate_directories: vec![PathPair::default()],
        ..Task::default()
    };
    assert_eq!(
        properties(&planned(&package).0),
        [
            "ISA=x86-64",
            "OSFamily=linux",
            "root-identity=debian-12-aa",
            "undeclared-writes=error"
        ]
    );
}

#[test]
fn tasks_that_always_run_are_not_cached() {
    assert!(
        planned(&Task {
            nostamp: true,
            ..Task::default()
        })
        .0
        .do_not_cache
    );
    assert!(
        planned(&Task {
            taint: "forced".to_owned(),
            ..Task::default()
        })
        .0
        .do_not_cache
    );
    assert!(!planned(&Task::default()).0.do_not_cache);
}

#[test]
fn the_same_task_has_the_same_action_everywhere() {
    let task = Task {
        name: "do_compile".to_owned(),
        ..Task::default()
    };
    let one = task_action(&environment(), &recipe(), &task, DIGEST_FUNCTION.digest(b"root"));
    let mut reordered = environment();
    reordered.platform.reverse();
    let other = task_action(&reordered, &recipe(), &task, DIGEST_FUNCTION.digest(b"root"));
    assert_eq!(one.action, other.action);
}
