use proptest::prelude::*;

use super::*;

/// Definition of a match, which tries all possibilities.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        [letter, rest @ ..] => name.first() == Some(letter) && matches(rest, &name[1..]),
    }
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let method = prop_oneof![
        Just(AuthenticationMethod::Anonymous),
        Just(AuthenticationMethod::Token),
        Just(AuthenticationMethod::Password),
        Just(AuthenticationMethod::Certificate),
    ];
    ("[ab]{0,2}", prop::collection::vec("[ab]{0,2}", 0..3), method)
        .prop_map(|(name, groups, method)| Identity { name, groups, method })
}

fn any_permissions() -> impl Strategy<Value = PermissionSet> {
    prop::sample::subsequence(Permission::ALL.to_vec(), 0..=7).prop_map(|some| some.into_iter().collect())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let patterns = || prop::collection::vec("[ab*]{0,3}".prop_map(Pattern::new), 0..3);
    let methods = prop::sample::subsequence(
        vec![AuthenticationMethod::Token, AuthenticationMethod::Certificate],
        0..=2,
    );
    (patterns(), patterns(), methods, patterns(), any_permissions()).prop_map(
        |(identities, groups, methods, instances, allow)| Rule {
            identities,
            groups,
            methods,
            instances,
            allow,
        },
    )
}

fn any_policy() -> impl Strategy<Value = AccessPolicy> {
    (prop::collection::vec(any_rule(), 0..4), any_permissions())
        .prop_map(|(rules, anonymous)| AccessPolicy { rules, anonymous })
}

fn subset(some: PermissionSet, all: PermissionSet) -> bool {
    some.union(all) == all
}

proptest! {
    #[test]
    fn a_pattern_matches_as_defined(pattern in "[ab/*]{0,6}", name in "[ab/]{0,8}") {
        prop_assert_eq!(Pattern::new(pattern.clone()).matches(&name), matches(pattern.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn a_further_rule_never_takes_a_permission_away(
        policy in any_policy(), rule in any_rule(), identity in any_identity(), name in "[ab]{0,2}", at in 0_usize..5,
    ) {
        let instance = instance(&name);
        let mut larger = policy.clone();
        larger.rules.insert(at.min(larger.rules.len()), rule);
        prop_assert!(subset(
            policy.permissions(&identity, &instance),
            larger.permissions(&identity, &instance)
        ));
    }

    #[test]
    fn no_rule_applies_to_anonymous_callers(policy in any_policy(), name in "[ab]{0,2}") {
        let granted = policy.permissions(&Identity::anonymous(), &instance(&name));
        prop_assert_eq!(granted, policy.anonymous);
        prop_assert_eq!(policy.permissions_anywhere(&Identity::anonymous()), policy.anonymous);
    }

    #[test]
    fn permissions_anywhere_bound_those_on_an_instance(
        policy in any_policy(), identity in any_identity(), name in "[ab]{0,2}",
    ) {
        prop_assert!(subset(
            policy.permissions(&identity, &instance(&name)),
            policy.permissions_anywhere(&identity)
        ));
    }

    #[test]
    fn grants_only_what_a_matching_rule_allows(
        policy in any_policy(), identity in any_identity(), name in "[ab]{0,2}",
    ) {
        let granted = policy.permissions(&identity, &instance(&name));
        for permission in Permission::ALL {
            let by_rule = policy.rules.iter().any(|rule| {
                let about = rule.identities.iter().any(|pattern| pattern.matches(&identity.name))
                    || identity.groups.iter().any(|group| rule.groups.iter().any(|pattern| pattern.matches(group)));
                about
                    && !identity.is_anonymous()
                    && (rule.methods.is_empty() || rule.methods.contains(&identity.method))
                    && rule.instances.iter().any(|pattern| pattern.matches(&name))
                    && rule.allow.contains(permission)
            });
            prop_assert_eq!(granted.contains(permission), by_rule || policy.anonymous.contains(permission));
        }
    }
}

#[test]
fn matches_long_names_in_linear_time() {
    let pattern = Pattern::new("*a".repeat(2000) + "b");
    assert!(!pattern.matches(&"a".repeat(100_000)));
}

#[test]
fn unclassified_methods_are_for_administrators() {
    assert_eq!(
        required_permission("/new.Service/Method"),
        Required::OneOf(&[Permission::Admin])
    );
    assert_eq!(
        required_permission("/build.bazel.remote.execution.v2.ContentAddressableStorage/New"),
        Required::OneOf(&[Permission::Admin])
    );
    assert_eq!(
        required_permission("/grpc.health.v1.Health/Check"),
        Required::Nothing
    );
}

#[tokio::test]
async fn refuses_configurations_without_effect_or_with_typos() {
    let refusal = |json: serde_json::Value| async move {
        let configuration: AccessConfiguration = serde_json::from_value(json).unwrap();
        configuration
            .open(std::path::Path::new("/"))
            .await
            .unwrap_err()
            .to_string()
    };
    let nobody = refusal(serde_json::json!({})).await;
    assert!(nobody.contains("nobody could do anything"), "{nobody}");
    let word = refusal(serde_json::json!({"access": {"anonymous": ["reed"]}})).await;
    assert!(word.contains("\"reed\" is no permission"), "{word}");
    let rule = serde_json::json!({"identities": ["*"], "allow": ["read"]});
    let way = refusal(serde_json::json!({"access": {"rules": [rule]}})).await;
    assert!(way.contains("no way to"), "{way}");
    let rule = serde_json::json!({"allow": ["read"]});
    let about = refusal(serde_json::json!({"access": {"rules": [rule]}})).await;
    assert!(about.contains("rule 1: names neither"), "{about}");
}

#[tokio::test]
async fn f15_names_of_several_methods_are_told_apart() {
    let open = |rule: serde_json::Value, passwords: bool| async move {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("keys.json"), r#"{"keys": []}"#).unwrap();
        std::fs::write(directory.path().join("passwords"), "").unwrap();
        let tokens = serde_json::json!({"keys": "keys.json", "issuer": "i", "audiences": ["a"]});
        let mut access = serde_json::json!({"tokens": tokens, "rules": [rule]});
        if passwords {
            access["passwords"] = "passwords".into();
        }
        let configuration: AccessConfiguration =
            serde_json::from_value(serde_json::json!({ "access": access })).unwrap();
        let opened = configuration.open(directory.path()).await;
        opened.map_err(|error| error.to_string()).map(drop)
    };
    let ambiguous =
        |refusal: Result<(), String>| refusal.is_err_and(|refusal| refusal.contains("add methods"));
    for name in ["identities", "groups"] {
        let rule = serde_json::json!({name: ["ci"], "allow": ["ac-write"]});
        assert!(ambiguous(open(rule.clone(), true).await), "{name}");
        assert!(!ambiguous(open(rule, false).await), "{name}: tokens alone");
        let rule = serde_json::json!({name: ["ci"], "methods": ["token"], "allow": ["ac-write"]});
        assert!(!ambiguous(open(rule, true).await), "{name} of tokens");
    }
    let everybody = serde_json::json!({"identities": ["*"], "allow": ["read"]});
    assert!(!ambiguous(open(everybody, true).await));
}
