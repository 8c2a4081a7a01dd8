use std::os::unix::fs::symlink;

use super::*;

#[test]
fn f24_only_files_of_the_users_caches_are_read() {
    let work = tempfile::tempdir().unwrap();
    let (fetched, mirror) = (work.path().join("archives"), work.path().join("mirror"));
    for directory in [&fetched, &mirror] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(work.path().join("secret"), "secret").unwrap();
    fs::write(mirror.join("archive"), "archive").unwrap();
    fs::write(fetched.join("fetched"), "archive").unwrap();
    // As BitBake places a file of a local mirror.
    symlink(mirror.join("archive"), fetched.join("linked")).unwrap();
    symlink(work.path().join("secret"), fetched.join("escape")).unwrap();
    symlink(work.path().join("secret"), mirror.join("escape")).unwrap();
    let program = SharedStateProgram::new(
        &Command::new("true"),
        Value::Null,
        tempfile::tempdir().unwrap(),
        fetched,
        vec![work.path().join("absent"), mirror.clone()],
        DigestFunction::Sha256,
    );
    let sandbox = Path::new(FETCHED_ARCHIVES);
    let archive = DigestFunction::Sha256.digest(b"archive");
    for path in [
        sandbox.join("fetched"),
        sandbox.join("linked"),
        mirror.join("archive"),
    ] {
        assert_eq!(program.hash(&path).unwrap().0, archive, "{}", path.display());
    }
    for path in [
        work.path().join("secret"),
        sandbox.join("../secret"),
        sandbox.join("escape"),
        mirror.join("escape"),
        mirror.clone(),
        PathBuf::from("/etc/passwd"),
    ] {
        assert!(program.hash(&path).is_err(), "{}", path.display());
    }
}
