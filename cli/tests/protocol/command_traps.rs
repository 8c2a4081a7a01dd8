//! Traps of Command and Directory.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use bitzel_proto::reapi::command::{EnvironmentVariable, OutputDirectoryFormat};
use bitzel_proto::reapi::{
    Command, Directory, DirectoryNode, OutputSymlink, Platform, Tree, platform::Property,
};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message as _;
use tonic::Code;

use super::messages::{file, of_files, paths, request, shell, succeeded};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

fn names(symlinks: &[OutputSymlink]) -> Vec<(&str, &str)> {
    let pairs = symlinks.iter();
    pairs
        .map(|symlink| (symlink.path.as_str(), symlink.target.as_str()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_01_output_paths_supersede_the_legacy_fields() {
    let server = Server::farm().await;
    let command = Command {
        output_paths: paths(&["dir", "file", "link", "nothing"]),
        output_files: paths(&["legacy"]),
        output_directories: paths(&["legacydir"]),
        ..shell("mkdir dir legacydir; echo x > file; echo y > legacy; ln -s /nowhere link")
    };
    let result = succeeded(server.run(&command, &Directory::default()).await);
    let files: Vec<_> = result.output_files.iter().map(|file| &file.path).collect();
    assert_eq!(files, ["file"]);
    let directories: Vec<_> = result.output_directories.iter().map(|dir| &dir.path).collect();
    assert_eq!(directories, ["dir"]);
    assert_eq!(names(&result.output_symlinks), [("link", "/nowhere")]);
    assert_eq!(result.output_file_symlinks, []);
    assert_eq!(result.output_directory_symlinks, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_01_legacy_outputs_have_their_own_symlink_fields() {
    let server = Server::farm().await;
    let command = Command {
        output_files: paths(&["absent", "f", "in/to-file"]),
        output_directories: paths(&["absentdir", "d", "to-dir"]),
        ..shell("mkdir d; echo x > f; ln -s ../f in/to-file; ln -s d to-dir")
    };
    let result = succeeded(server.run(&command, &Directory::default()).await);
    assert_eq!(result.output_files[0].path, "f");
    assert_eq!(result.output_directories[0].path, "d");
    assert_eq!(
        (result.output_files.len(), result.output_directories.len()),
        (1, 1)
    );
    assert_eq!(names(&result.output_file_symlinks), [("in/to-file", "../f")]);
    assert_eq!(names(&result.output_directory_symlinks), [("to-dir", "d")]);
    assert_eq!(result.output_symlinks, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_01_refuses_a_legacy_output_of_the_wrong_type() {
    let server = Server::farm().await;
    let cases = [
        ("mkdir out", paths(&["out"]), vec![]),
        ("echo x > out", vec![], paths(&["out"])),
        // A symlink counts as its target.
        ("mkdir d; ln -s d out", paths(&["out"]), vec![]),
        (
            "echo x > f; ln -s f middle; ln -s middle out",
            vec![],
            paths(&["out"]),
        ),
        (
            "mkdir -p a/b; echo x > a/f; ln -s b/../f a/out",
            vec![],
            paths(&["a/out"]),
        ),
    ];
    for (script, output_files, output_directories) in cases {
        let command = Command {
            output_files,
            output_directories,
            ..shell(script)
        };
        let status = server.run(&command, &Directory::default()).await.status.unwrap();
        assert_eq!(
            status.code,
            Code::FailedPrecondition as i32,
            "{script}: {status:?}"
        );
        assert!(status.message.contains("out\" is "), "{}", status.message);
    }
    // Targets outside of the input root, and missing ones, are not known to be wrong.
    let command = Command {
        output_files: paths(&["loop", "nowhere", "outside"]),
        output_directories: paths(&["outsidedir"]),
        ..shell("ln -s loop loop; ln -s x nowhere; ln -s /usr/bin outside; ln -s ../../usr/bin/sh outsidedir")
    };
    let result = succeeded(server.run(&command, &Directory::default()).await);
    assert_eq!(result.output_file_symlinks.len(), 3);
    assert_eq!(result.output_directory_symlinks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_02_creates_parents_but_no_legacy_output_directories() {
    let server = Server::farm().await;
    let command = Command {
        output_files: paths(&["a/b/file"]),
        output_directories: paths(&["c/d/dir"]),
        ..shell("test -d a/b && test ! -e a/b/file && test -d c/d && test ! -e c/d/dir")
    };
    succeeded(server.run(&command, &Directory::default()).await);
    let command = Command {
        output_paths: paths(&["a/b/any"]),
        ..shell("test -d a/b && test ! -e a/b/any")
    };
    succeeded(server.run(&command, &Directory::default()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_02_outputs_are_relative_to_the_working_directory() {
    let server = Server::farm().await;
    let empty = server.put_message(SHA256, &Directory::default()).await;
    let root = Directory {
        directories: vec![DirectoryNode {
            name: "sub".to_owned(),
            digest: Some(empty.to_wire()),
        }],
        ..Default::default()
    };
    let command = Command {
        working_directory: "sub".to_owned(),
        output_paths: paths(&["deep/out"]),
        ..shell("test -d deep; echo here > deep/out; echo there > ../deep-out")
    };
    let result = succeeded(server.run(&command, &root).await);
    assert_eq!(result.output_files[0].path, "deep/out");
    assert_eq!(
        result.output_files[0].digest,
        Some(SHA256.digest(b"here\n").to_wire())
    );
    let status = server.run(&command, &Directory::default()).await.status.unwrap();
    assert_eq!(status.code, Code::InvalidArgument as i32);
    assert!(
        status.message.contains("\"sub\" is not in the input root"),
        "{}",
        status.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_03_refuses_unsorted_and_duplicate_directory_entries() {
    let server = Server::farm().await;
    let digest = server.put(SHA256, b"content").await;
    let cases = [
        (of_files(vec![file("b", digest), file("a", digest)]), "not sorted"),
        // By bytes: B comes before a, and an accented letter after both.
        (of_files(vec![file("a", digest), file("B", digest)]), "not sorted"),
        (of_files(vec![file("é", digest), file("z", digest)]), "not sorted"),
        (
            of_files(vec![file("a", digest), file("a", digest)]),
            "occurs twice",
        ),
        (of_files(vec![file("a/b", digest)]), "contains a slash"),
        (of_files(vec![file("..", digest)]), "is not the name of an entry"),
        (of_files(vec![file("", digest)]), "is empty"),
    ];
    for (root, reason) in cases {
        let status = server.run(&shell("true"), &root).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{reason}: {status:?}");
        assert!(status.message.contains(reason), "{}", status.message);
    }
    let root = of_files(vec![file("B", digest), file("a", digest), file("é", digest)]);
    succeeded(server.run(&shell("cat B a é"), &root).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_03_sorts_directory_entries_by_bytes() {
    let server = Server::farm().await;
    let command = Command {
        output_paths: paths(&["out"]),
        ..shell(
            "mkdir out; cd out; for name in é z a B 10 9; do touch $name; mkdir d$name; ln -s x s$name; done",
        )
    };
    let result = succeeded(server.run(&command, &Directory::default()).await);
    let tree = result.output_directories[0].tree_digest.as_ref();
    let tree = server.get(Digest::from_wire_field(SHA256, tree).unwrap()).await;
    let root = Tree::decode(tree.as_slice()).unwrap().root.unwrap();
    let files: Vec<_> = root.files.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(files, ["10", "9", "B", "a", "z", "é"]);
    let directories: Vec<_> = root.directories.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(directories, ["d10", "d9", "dB", "da", "dz", "dé"]);
    let symlinks: Vec<_> = root.symlinks.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(symlinks, ["s10", "s9", "sB", "sa", "sz", "sé"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_returns_output_directories_as_requested() {
    let server = Server::farm().await;
    let unsupported = 77;
    let cases = [
        (OutputDirectoryFormat::TreeOnly.into(), true, false),
        (OutputDirectoryFormat::DirectoryOnly.into(), false, true),
        (OutputDirectoryFormat::TreeAndDirectory.into(), true, true),
        (unsupported, true, false),
    ];
    for (output_directory_format, wants_tree, wants_root) in cases {
        let command = Command {
            output_paths: paths(&["out"]),
            output_directory_format,
            ..shell("mkdir -p out/a/b out/c/b; echo x > out/a/b/x; echo x > out/c/b/x")
        };
        let result = succeeded(server.run(&command, &Directory::default()).await);
        let output = &result.output_directories[0];
        let digest = |named| Digest::from_wire_field(SHA256, named).unwrap();
        assert_eq!(output.tree_digest.is_some(), wants_tree);
        assert_eq!(output.root_directory_digest.is_some(), wants_root);
        let tree = output.tree_digest.as_ref();
        let tree = match tree {
            Some(_) => Some(Tree::decode(server.get(digest(tree)).await.as_slice()).unwrap()),
            None => None,
        };
        if let Some(tree) = &tree {
            assert_eq!(tree.children.len(), 2, "equal directories once: a, c and both b");
        }
        if wants_root {
            let root = digest(output.root_directory_digest.as_ref());
            let stored = Directory::decode(server.get(root).await.as_slice()).unwrap();
            let children: Vec<_> = stored
                .directories
                .iter()
                .map(|node| digest(node.digest.as_ref()))
                .collect();
            assert_eq!(server.missing(&children).await, []);
            if let Some(tree) = &tree {
                let (digest_in_tree, _) = Digest::of_message(SHA256, tree.root.as_ref().unwrap());
                assert_eq!(digest_in_tree, root, "the Tree's root is the root Directory");
            }
        }
    }
}

/// On the list without a number.
#[tokio::test(flavor = "multi_thread")]
async fn also_the_platform_of_the_action_comes_first() {
    let server = Server::farm().await;
    let platform = |name: &str, value: &str| {
        let property = Property {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        Some(Platform {
            properties: vec![property],
        })
    };
    let script = "test \"$(grep -c : /proc/net/dev)\" -gt 1 && echo network || echo none";
    let command = Command {
        platform: platform("network", "on"),
        ..shell(script)
    };
    let interfaces = std::fs::read_to_string("/proc/net/dev").unwrap();
    assert!(
        interfaces.lines().filter(|line| line.contains(':')).count() > 1,
        "this test needs a machine with a network"
    );
    let by_command = server.action(SHA256, &command, |_| {}).await;
    let by_action = server
        .action(SHA256, &command, |action| {
            action.platform = platform("network", "off");
        })
        .await;
    for (action, expected) in [(by_command, "network\n"), (by_action, "none\n")] {
        let stdout = succeeded(server.respond(request(action)).await).stdout_digest;
        assert_eq!(stdout, Some(SHA256.digest(expected.as_bytes()).to_wire()));
    }
}

/// Sorting is the client's duty (trap 3). Without it the digest differs, but the environment is right.
#[tokio::test(flavor = "multi_thread")]
async fn also_passes_environment_variables_in_any_order() {
    let server = Server::farm().await;
    let variable = |name: &str| EnvironmentVariable {
        name: name.to_owned(),
        value: name.to_lowercase(),
    };
    let command = Command {
        environment_variables: vec![variable("ZZ"), variable("AA")],
        ..shell("echo $AA $ZZ")
    };
    let stdout = succeeded(server.run(&command, &Directory::default()).await).stdout_digest;
    assert_eq!(stdout, Some(SHA256.digest(b"aa zz\n").to_wire()));
}
