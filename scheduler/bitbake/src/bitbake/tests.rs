use std::os::unix::fs::symlink;

use super::*;

fn checkout(directory: &Path) {
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::create_dir_all(directory.join("lib/bb")).unwrap();
    fs::write(directory.join("lib/bb/__init__.py"), "").unwrap();
    fs::write(directory.join("bin/bitbake"), "").unwrap();
}

fn config(path: &str) -> FrontEndConfig {
    let mut config = FrontEndConfig::new("/nonexistent".into(), "/nonexistent".into());
    config.environment.insert("PATH".to_owned(), path.to_owned());
    config.python = "/nonexistent/python3".into();
    config
}

#[tokio::test]
async fn a_named_checkout_or_library_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    checkout(directory.path());
    let library = directory.path().join("lib").canonicalize().unwrap();
    for named in [directory.path().to_owned(), library.clone()] {
        let mut config = config("");
        config.bitbake = Some(named);
        assert_eq!(find(&config).await.unwrap(), library);
    }
}

#[tokio::test]
async fn a_named_directory_without_bitbake_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config("");
    config.bitbake = Some(directory.path().to_owned());
    assert!(matches!(
        find(&config).await,
        Err(FrontEndError::BitBakeNotFound { .. })
    ));
}

#[tokio::test]
async fn the_checkout_behind_a_linked_bitbake_in_path_is_found() {
    let directory = tempfile::tempdir().unwrap();
    checkout(&directory.path().join("checkout"));
    let links = directory.path().join("links");
    fs::create_dir(&links).unwrap();
    symlink(
        directory.path().join("checkout/bin/bitbake"),
        links.join("bitbake"),
    )
    .unwrap();
    let config = config(&format!("/nonexistent:{}", links.display()));
    let library = directory.path().join("checkout/lib").canonicalize().unwrap();
    assert_eq!(find(&config).await.unwrap(), library);
}

#[test]
fn a_checkout_gives_its_library_without_the_web_application() {
    let directory = tempfile::tempdir().unwrap();
    checkout(directory.path());
    let library = directory.path().join("lib");
    for name in ["ply", "toaster", "hashserv", "__pycache__"] {
        fs::create_dir(library.join(name)).unwrap();
    }
    fs::write(library.join("codegen.py"), "").unwrap();
    assert_eq!(names_of(&library), ["bb", "codegen.py", "hashserv", "ply"]);
}

#[test]
fn a_python_library_gives_only_the_recorded_modules() {
    let library = tempfile::tempdir().unwrap();
    for name in [
        "bb",
        "bitbake_setup",
        "django",
        "bitbake_setup-2.19.0.dist-info",
        "django-5.dist-info",
    ] {
        fs::create_dir(library.path().join(name)).unwrap();
    }
    fs::write(
        library.path().join("bitbake_setup-2.19.0.dist-info/RECORD"),
        "../../bin/bitbake-setup,,\nbb/__init__.py,sha256=x,1\nbb/data.py,,\nbitbake_setup/__init__.py,,\n\
         bitbake_setup-2.19.0.dist-info/RECORD,,\n",
    )
    .unwrap();
    fs::write(
        library.path().join("django-5.dist-info/RECORD"),
        "django/__init__.py,,\n",
    )
    .unwrap();
    assert_eq!(names_of(library.path()), ["bb", "bitbake_setup"]);
}

fn names_of(library: &Path) -> Vec<String> {
    modules(library)
        .unwrap()
        .into_iter()
        .map(|(_, name)| name)
        .collect()
}
