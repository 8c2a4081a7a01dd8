use std::time::SystemTime;

use bitzel_access::{AccessPolicy, Caller, Identity};
use bitzel_proto::DigestFunction;
use bitzel_proto::reapi::Platform;
use bitzel_proto::reapi::platform::Property;

use super::*;
use crate::operation_queue::{ActionKey, Requester};
use crate::platform::RequiredProperties;
use crate::resources::Resources;

fn waiting() -> queue::WaitingGroup {
    let requirements = RequiredProperties::new(&Platform {
        properties: vec![Property {
            name: "project".to_owned(),
            value: "secret".to_owned(),
        }],
    });
    queue::WaitingGroup {
        user: "alice".into(),
        requirements: requirements.clone(),
        actions: 3,
        waited: Duration::from_secs(1),
        next: Arc::new(QueuedAction {
            key: ActionKey {
                instance: InstanceName::default(),
                digest: DigestFunction::Sha256.digest(b"a"),
            },
            do_not_cache: false,
            requirements,
            requester: Requester::default(),
            resources: Resources::default(),
            remaining_path: Duration::ZERO,
            input_trees: Arc::default(),
            priority: 0,
            queued: SystemTime::UNIX_EPOCH,
            request_metadata: None,
        }),
        unserved: false,
    }
}

#[test]
fn groups_of_others_are_counted_and_not_described() {
    let mut extensions = Extensions::new();
    let mut see_as = |policy: AccessPolicy| {
        extensions.insert(Caller {
            identity: Arc::new(Identity::anonymous()),
            policy: Arc::new(policy),
        });
        Sight::new(&extensions).group(&waiting())
    };
    let seen = see_as(AccessPolicy::open());
    assert_eq!(seen.user, "alice");
    assert_eq!(seen.requirements.unwrap().properties[0].value, "secret");
    let hidden = see_as(AccessPolicy::default());
    assert_eq!((hidden.user.as_str(), hidden.requirements), ("", None));
    assert_eq!(hidden.actions, 3);
}
