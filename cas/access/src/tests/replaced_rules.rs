use std::path::Path;

use crate::testing::{SigningKey, claims};

use super::*;

const TOKENS: &str = r#"{"keys": "keys.json", "issuer": "issuer", "audiences": ["bitzel"]}"#;

/// Table `[access]` with a rule for the group `ci`.
fn table(tokens: &str, allow: &str) -> AccessTable {
    let table = format!(r#"{{"tokens": {tokens}, "rules": [{{"groups": ["ci"], "allow": ["{allow}"]}}]}}"#);
    serde_json::from_str(&table).unwrap()
}

async fn open(directory: &Path, key: &SigningKey) -> ServerAccess {
    let set = serde_json::json!({"keys": [key.jwk("k")]}).to_string();
    std::fs::write(directory.join("keys.json"), set).unwrap();
    let configuration = AccessConfiguration {
        access: table(TOKENS, "read"),
        ..AccessConfiguration::default()
    };
    configuration.open(directory).await.unwrap()
}

/// Permissions of alice, who is in the group `ci`.
async fn permissions(access: &ServerAccess, key: &SigningKey) -> PermissionSet {
    let rules = access.layer.rules();
    let mut headers = http::HeaderMap::new();
    let token = format!("Bearer {}", key.token("k", &claims()));
    headers.insert(http::header::AUTHORIZATION, token.parse().unwrap());
    let credentials = Credentials::of(&headers).unwrap().unwrap();
    let identity = rules.authenticators[0].authenticate(&credentials).await;
    rules
        .policy
        .permissions(&identity.unwrap().unwrap(), &instance(""))
}

#[tokio::test]
async fn a_clone_of_the_layer_gets_new_rules() {
    let directory = tempfile::tempdir().unwrap();
    let key = SigningKey::ed();
    let access = open(directory.path(), &key).await;
    let listener = access.clone();
    assert!(!permissions(&listener, &key).await.contains(Permission::Admin));
    access
        .replace_rules(table(TOKENS, "all"), directory.path())
        .await
        .unwrap();
    assert!(permissions(&listener, &key).await.contains(Permission::Admin));
}

#[tokio::test]
async fn a_new_rule_does_not_need_the_issuer() {
    let directory = tempfile::tempdir().unwrap();
    let key = SigningKey::ed();
    let access = open(directory.path(), &key).await;
    std::fs::remove_file(directory.path().join("keys.json")).unwrap();
    access
        .replace_rules(table(TOKENS, "all"), directory.path())
        .await
        .unwrap();
    assert!(permissions(&access, &key).await.contains(Permission::Admin));
}

#[tokio::test]
async fn a_table_with_a_mistake_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let key = SigningKey::ed();
    let access = open(directory.path(), &key).await;
    let other_keys = r#"{"keys": "absent.json", "issuer": "issuer", "audiences": ["bitzel"]}"#;
    let mistakes = [
        (table(TOKENS, "everything"), "is no permission"),
        (table(other_keys, "all"), "cannot read the keys"),
        (AccessTable::default(), "nobody could do anything"),
    ];
    for (table, message) in mistakes {
        let error = access.replace_rules(table, directory.path()).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(permissions(&access, &key).await.contains(Permission::CasRead));
        assert!(!permissions(&access, &key).await.contains(Permission::Admin));
    }
}
