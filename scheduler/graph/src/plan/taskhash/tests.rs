use super::*;

fn sha256(text: &str) -> String {
    hex_string(&Sha256::digest(text))
}

fn checksum(path: &str, checksum: &str) -> FileChecksum {
    FileChecksum {
        path: path.to_owned(),
        checksum: checksum.to_owned(),
    }
}

#[test]
fn a_task_without_dependencies_hashes_its_basehash() {
    let task = Task {
        basehash: "b0".to_owned(),
        ..Task::default()
    };
    assert_eq!(taskhash(&task, |_| ""), sha256("b0"));
}

#[test]
fn unihashes_files_and_taint_follow_in_this_order() {
    let task = Task {
        basehash: "base".to_owned(),
        file_checksums: vec![
            checksum("/work/layers/a/files/one.c", "c1"),
            checksum("/work/layers/a/./files/two.c", "c2"),
            checksum("/work/layers/a/missing", ""),
        ],
        hash_dependencies: vec![8, 3],
        taint: "nostamp:f00".to_owned(),
        ..Task::default()
    };
    assert_eq!(
        taskhash(&task, |dependency| if dependency == 8 { "u1" } else { "u2" }),
        sha256("baseu1u2c1./files/two.cc2f00")
    );
}

#[test]
fn a_forced_taint_is_hashed_whole() {
    let task = Task {
        taint: "7e1f".to_owned(),
        ..Task::default()
    };
    assert_eq!(taskhash(&task, |_| ""), sha256("7e1f"));
}

#[test]
fn the_order_of_unihashes_matters() {
    let task = |hash_dependencies| Task {
        hash_dependencies,
        ..Task::default()
    };
    let unihash = |dependency| if dependency == 0 { "a" } else { "b" };
    assert_ne!(
        taskhash(&task(vec![0, 1]), unihash),
        taskhash(&task(vec![1, 0]), unihash)
    );
}
