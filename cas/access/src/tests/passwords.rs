use bitzel_rpc::Secret;

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
async fn right_passwords_are_taken_and_changes_of_the_file_are_seen() {
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
    assert!(check("alice", "one").await.is_err());
    assert!(check("alice", "new password").await.is_ok());
    assert!(check("bob", "two").await.is_err());
    // Nonsense, as from an editor that has not finished, locks nobody out.
    std::fs::write(&path, "nonsense").unwrap();
    assert!(check("alice", "new password").await.is_ok());
    let bearer = Credentials::Bearer(Secret::new("x"));
    assert!(authenticator.authenticate(&bearer).await.is_none());
}

#[test]
fn hashes_that_are_fast_to_guess_are_refused_by_line() {
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
