use bitzel_access::{AccessPolicy, AuthenticationMethod};

use super::*;

fn caller(name: &str, method: AuthenticationMethod) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(Caller {
        identity: Arc::new(Identity {
            name: name.to_owned(),
            groups: vec![],
            method,
        }),
        policy: Arc::new(AccessPolicy::open()),
    });
    extensions
}

fn policy(text: &str) -> RequestPolicy {
    RequestPolicy::new(&toml::from_str(text).unwrap())
}

#[test]
fn weights_go_by_name_or_by_name_and_method() {
    let policy = policy("[weights]\nalice = 2\nci = 3\n\"ci (token)\" = 4");
    let weight = |name, method| policy.requester(&caller(name, method), None).weight.get();
    assert_eq!(weight("alice", AuthenticationMethod::Password), 2);
    assert_eq!(weight("ci", AuthenticationMethod::Certificate), 3);
    assert_eq!(weight("ci", AuthenticationMethod::Token), 4);
    assert_eq!(weight("bob", AuthenticationMethod::Token), 1);
}

#[test]
fn anonymous_callers_are_one_user_with_invocations() {
    let policy = policy("");
    let metadata = RequestMetadata {
        tool_invocation_id: "tool".to_owned(),
        ..Default::default()
    };
    let first = policy.requester(&Extensions::new(), Some(&metadata));
    assert_eq!((&*first.user, &*first.invocation), ("anonymous", "tool"));
    let metadata = RequestMetadata {
        correlated_invocations_id: "ü".repeat(100),
        ..metadata
    };
    let second = policy.requester(&Extensions::new(), Some(&metadata));
    assert_eq!(second.user, first.user);
    assert_eq!(&*second.invocation, "ü".repeat(64));
}

#[test]
fn priorities_are_bounded_on_each_instance() {
    let policy = policy("[priority.instances.release]\nmost_urgent = -50\nleast_urgent = 0");
    let bounded =
        |instance: &str, requested| policy.priority(&InstanceName::new(instance).unwrap(), requested);
    assert_eq!(bounded("", i32::MIN), -10);
    assert_eq!(bounded("", 7), 7);
    assert_eq!(bounded("release", i32::MIN), -50);
    assert_eq!(bounded("release", 7), 0);
}

#[test]
fn hints_are_read_from_headers_and_bad_ones_ignored() {
    let hints = |path: &str, trees: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert(REMAINING_PATH, path.parse().unwrap());
        metadata.insert(INPUT_TREES, trees.parse().unwrap());
        SchedulingHints::read(&metadata)
    };
    let read = hints("90000", "00000000000000ff,0000000000000001");
    assert_eq!(read.remaining_path, Duration::from_secs(90));
    assert_eq!(*read.input_trees, [255, 1]);
    assert_eq!(hints("-1", "many"), SchedulingHints::default());
    assert_eq!(hints("99999999999999999999", ""), SchedulingHints::default());
    assert_eq!(
        SchedulingHints::read(&MetadataMap::new()),
        SchedulingHints::default()
    );
}
