use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn write(path: &Path, contents: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

fn tree_of(source: &Path, destination: &str) -> LocalTree {
    let mut stat_cache = StatCache::default();
    let mut builder = LocalTreeBuilder::new(DigestFunction::Sha256, &mut stat_cache);
    builder.add_directory(source, destination, &|_| false).unwrap();
    builder.finish()
}

/// All paths of a tree, files with their content's digest, symlinks with their target.
fn listing(tree: &LocalTree) -> Vec<String> {
    fn visit(tree: &LocalTree, digest: &Digest, prefix: &str, lines: &mut Vec<String>) {
        let directory = Directory::decode(tree.directories[digest].clone()).unwrap();
        for file in directory.files {
            let digest = Digest::from_wire_field(DigestFunction::Sha256, file.digest.as_ref()).unwrap();
            let contents = fs::read_to_string(&tree.files[&digest]).unwrap();
            let executable = if file.is_executable { "*" } else { "" };
            lines.push(format!("{prefix}{}{executable}={contents}", file.name));
        }
        for symlink in directory.symlinks {
            lines.push(format!("{prefix}{}->{}", symlink.name, symlink.target));
        }
        for child in directory.directories {
            let digest = Digest::from_wire_field(DigestFunction::Sha256, child.digest.as_ref()).unwrap();
            let prefix = format!("{prefix}{}/", child.name);
            lines.push(prefix.clone());
            visit(tree, &digest, &prefix, lines);
        }
    }
    let mut lines = Vec::new();
    visit(tree, &tree.root, "", &mut lines);
    lines
}

#[test]
fn ignored_names_are_not_part_of_the_tree() {
    let layer = tempfile::tempdir().unwrap();
    let path = layer.path();
    write(&path.join("conf/layer.conf"), "conf");
    write(&path.join("scripts/run"), "run");
    fs::set_permissions(path.join("scripts/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    symlink("../missing", path.join("link")).unwrap();
    for ignored in [
        ".git/HEAD",
        "lib/__pycache__/a.pyc",
        "conf/layer.conf~",
        "conf/.layer.conf.swp",
    ] {
        write(&path.join(ignored), "x");
    }
    assert_eq!(
        listing(&tree_of(path, "layers/core")),
        [
            "layers/",
            "layers/core/",
            "layers/core/link->../missing",
            "layers/core/conf/",
            "layers/core/conf/layer.conf=conf",
            "layers/core/empty/",
            "layers/core/lib/",
            "layers/core/scripts/",
            "layers/core/scripts/run*=run",
        ]
    );
}

#[test]
fn the_same_files_elsewhere_are_the_same_tree() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for layer in [one.path(), two.path()] {
        write(&layer.join("conf/layer.conf"), "conf");
    }
    assert_eq!(
        tree_of(one.path(), "layers/a").root,
        tree_of(two.path(), "layers/a").root
    );
    write(&two.path().join("conf/layer.conf"), "other");
    assert_ne!(
        tree_of(one.path(), "layers/a").root,
        tree_of(two.path(), "layers/a").root
    );
}

#[test]
fn generated_files_join_a_directory() {
    let layer = tempfile::tempdir().unwrap();
    write(&layer.path().join("lib/a.py"), "a");
    write(&layer.path().join("made"), "made");
    let mut stat_cache = StatCache::default();
    let mut builder = LocalTreeBuilder::new(DigestFunction::Sha256, &mut stat_cache);
    builder
        .add_file(&layer.path().join("made"), "bitbake/lib/__pycache__/a.pyc")
        .unwrap();
    builder
        .add_directory(&layer.path().join("lib"), "bitbake/lib", &|_| false)
        .unwrap();
    assert_eq!(
        listing(&builder.finish()),
        [
            "bitbake/",
            "bitbake/lib/",
            "bitbake/lib/a.py=a",
            "bitbake/lib/__pycache__/",
            "bitbake/lib/__pycache__/a.pyc=made"
        ]
    );
}

#[test]
fn an_excluded_directory_is_left_out() {
    let layer = tempfile::tempdir().unwrap();
    write(&layer.path().join("build/conf/bblayers.conf"), "x");
    write(&layer.path().join("conf/layer.conf"), "conf");
    let mut stat_cache = StatCache::default();
    let mut builder = LocalTreeBuilder::new(DigestFunction::Sha256, &mut stat_cache);
    builder
        .add_directory(layer.path(), "", &|path| path.ends_with("build"))
        .unwrap();
    assert_eq!(listing(&builder.finish()), ["conf/", "conf/layer.conf=conf"]);
}

#[test]
fn a_subdirectory_is_known_by_its_contents() {
    let directory = tempfile::tempdir().unwrap();
    write(&directory.path().join("one/file"), "text");
    write(&directory.path().join("one/__pycache__/file.pyc"), "compiled");
    write(&directory.path().join("two/file"), "text");
    let tree = tree_of(directory.path(), "");
    assert!(tree.subdirectory("one").is_some());
    assert_eq!(tree.subdirectory("one"), tree.subdirectory("two"));
    assert_eq!(tree.subdirectory("three"), None);
}
