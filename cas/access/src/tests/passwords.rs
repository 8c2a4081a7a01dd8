use bitzel_rpc::{Secret, WatchedFiles};

use super::*;

fn basic(name: &str, password: &str) -> Credentials {
    Credentials::Basic {
        name: name.to_owned(),
        password: Secret::new(password),
    }
}

fn line(name: &str, password: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
}

#[tokio::test]
async fn accepts_right_passwords_and_follows_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passwords");
    std::fs::write(
        &path,
        line("alice", "one") + "# a comment\n\n" + &line("bob", "two"),
    )
    .unwrap();
    let authenticator = PasswordAuthenticator::open(&path).unwrap();
    let check = async |name: &str, password: &str| {
        let outcome = authenticator.authenticate(&basic(name, password)).await;
        outcome.unwrap().map(|identity| identity.to_string())
    };
    // The second time from memory.
    for _ in 0..2 {
        assert_eq!(check("alice", "one").await.as_deref(), Ok("alice (password)"));
        assert!(check("alice", "two").await.is_err());
        assert!(check("carol", "one").await.is_err());
    }
    std::fs::write(&path, line("alice", "new password")).unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(check("alice", "one").await.is_err());
    assert!(check("alice", "new password").await.is_ok());
    assert!(check("bob", "two").await.is_err());
    // Nonsense, as from an editor that has not finished, locks nobody out.
    std::fs::write(&path, "nonsense").unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(check("alice", "new password").await.is_ok());
    let bearer = Credentials::Bearer(Secret::new("x"));
    assert!(authenticator.authenticate(&bearer).await.is_none());
}

#[test]
fn refuses_weak_hashes_with_their_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passwords");
    std::fs::write(
        &path,
        line("alice", "one") + "bob:$apr1$abcdefgh$xxxxxxxxxxxxxxxxxxxxxx\n",
    )
    .unwrap();
    let error = PasswordAuthenticator::open(&path).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    assert!(error.contains("htpasswd -B"), "{error}");
}
