//! The launcher as the command of a portable Action, in the directory that an engine makes.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bitzel_launcher::LaunchReport;
use bitzel_launcher::portable::{
    Attributes, DirectoryAttributes, IMAGE_ROOT, OUTCOME, OUTPUTS, OutputNode, PortableOutcome,
    PortableRequest, REQUEST, RUN_ARGUMENT, TREE, content_path,
};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bitzel-launcher");

/// Directory of an Action, as an engine makes it: without modes and times, read-only, hardlinks to the engine's cache.
struct ActionDirectory {
    directory: TempDir,
    cache: TempDir,
}

impl ActionDirectory {
    fn new() -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
            cache: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(made.path(TREE)).unwrap();
        made
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Adds a file of the tree, and returns its path in the cache.
    fn add(&self, path: &str, content: &str) -> PathBuf {
        let cached = self.cache.path().join(path.replace('/', "-"));
        fs::write(&cached, content).unwrap();
        fs::set_permissions(&cached, fs::Permissions::from_mode(0o444)).unwrap();
        let placed = self.path(TREE).join(path);
        fs::create_dir_all(placed.parent().unwrap()).unwrap();
        fs::hard_link(&cached, placed).unwrap();
        cached
    }

    fn run(&self, script: &str, request: PortableRequest) -> (PortableOutcome, Output) {
        let request = PortableRequest {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            ..request
        };
        fs::write(self.path(REQUEST), serde_json::to_vec(&request).unwrap()).unwrap();
        let output = Command::new(PROGRAM)
            .arg(RUN_ARGUMENT)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let outcome = fs::read(self.path(OUTPUTS).join(OUTCOME)).unwrap();
        (serde_json::from_slice(&outcome).unwrap(), output)
    }

    fn content(&self, number: u64) -> String {
        fs::read_to_string(self.path(OUTPUTS).join(content_path(number))).unwrap()
    }
}

fn nodes(outcome: PortableOutcome) -> BTreeMap<String, OutputNode> {
    outcome.outputs.into_iter().collect()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn restores_attributes_that_the_engine_dropped() {
    let action = ActionDirectory::new();
    action.add("a", "x");
    action.add("b", "x");
    action.add("d/c", "y");
    symlink("a", action.path(TREE).join("link")).unwrap();
    let attributes = |mode, mtime, group: Option<&str>| Attributes {
        mode: Some(mode),
        mtime: Some(mtime),
        group: group.map(str::to_owned),
    };
    let directories = vec![
        DirectoryAttributes {
            files: vec![
                ("a".into(), attributes(0o4640, (1_000_000_000, 5), Some("a"))),
                ("b".into(), attributes(0o4640, (1_000_000_000, 5), Some("a"))),
            ],
            symlinks: vec![("link".into(), (1_000_000_001, 0))],
            ..DirectoryAttributes::default()
        },
        DirectoryAttributes {
            path: "d".into(),
            attributes: attributes(0o700, (1_000_000_002, 0), None),
            ..DirectoryAttributes::default()
        },
    ];
    let request = PortableRequest {
        directories,
        ..PortableRequest::default()
    };
    let (outcome, output) = action.run(
        "stat -c '%n %a %.9Y %h' a b d d/c link; pwd; id -u; hostname; touch /usr/x 2>/dev/null || echo read-only",
        request,
    );
    assert_eq!(
        text(&output),
        "a 4640 1000000000.000000005 2\nb 4640 1000000000.000000005 2\nd 700 1000000002.000000000 2\n\
         d/c 444 946684800.000000000 1\nlink 777 1000000001.000000000 1\n/work\n1000\nbitzel\nread-only\n"
    );
    assert_eq!(outcome.report, LaunchReport::Exited(0));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn describes_changes_and_leaves_the_cache_of_the_engine_alone() {
    let action = ActionDirectory::new();
    let kept = action.add("out/same/kept", "kept");
    let cached = action.add("out/changed", "old");
    action.add("out/deleted", "gone");
    let request = PortableRequest {
        outputs: vec!["out".into(), "absent".into(), "deep/er/file".into()],
        ..PortableRequest::default()
    };
    let (outcome, output) = action.run(
        "chmod u+w out/changed && echo more >>out/changed && rm out/deleted && echo new >out/new && \
         chmod 4750 out/new && ln out/new out/twin && ln -s target out/link && echo deep >deep/er/file && \
         touch -d @1000000000 out/new",
        request,
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!((outcome.undeclared_count, &outcome.undeclared), (0, &vec![]));
    let nodes = nodes(outcome);
    assert_eq!(
        nodes.keys().collect::<Vec<_>>(),
        [
            "deep/er/file",
            "out",
            "out/changed",
            "out/link",
            "out/new",
            "out/same",
            "out/twin"
        ]
    );
    assert_eq!(nodes["out/same"], OutputNode::Unchanged);
    let OutputNode::File { content, mode, mtime } = nodes["out/new"] else {
        panic!("{:?}", nodes["out/new"]);
    };
    assert_eq!((mode, mtime), (0o4750, (1_000_000_000, 0)));
    assert_eq!(nodes["out/twin"], OutputNode::File { content, mode, mtime });
    assert_eq!(action.content(content), "new\n");
    let OutputNode::File {
        content, mode: 0o644, ..
    } = nodes["out/changed"]
    else {
        panic!("{:?}", nodes["out/changed"]);
    };
    assert_eq!(action.content(content), "oldmore\n");
    assert!(matches!(&nodes["out/link"], OutputNode::Symlink { target, .. } if target == "target"));
    for (file, content) in [(kept, "kept"), (cached, "old")] {
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o444);
    }
}

#[test]
fn lists_writes_outside_of_the_outputs() {
    let action = ActionDirectory::new();
    action.add("linked", "x");
    action.add("changed", "x");
    action.add("deleted", "x");
    let request = PortableRequest {
        outputs: vec!["out".into()],
        ..PortableRequest::default()
    };
    let (outcome, output) = action.run(
        "mkdir out empty && ln linked out/link && rm deleted && chmod 600 changed && echo x >new",
        request,
    );
    // A hardlink to an input is no write, and neither is a directory.
    assert_eq!(outcome.undeclared, ["changed", "deleted", "new"]);
    assert_eq!(outcome.undeclared_count, 3);
    assert_ne!(output.status.code(), Some(0), "no engine may cache it");
}

#[test]
fn runs_the_command_in_an_image_root() {
    let action = ActionDirectory::new();
    let root = action.path(IMAGE_ROOT);
    for name in ["bin", "etc", "var/lib"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("etc/own"), "image").unwrap();
    fs::write(root.join("etc/passwd"), "hostile").unwrap();
    symlink("/etc", root.join("var/lib/link")).unwrap();
    // A static program: the image has no libraries.
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        let request = PortableRequest {
            image_root: true,
            ..PortableRequest::default()
        };
        let (outcome, output) = action.run("true", request);
        // There is no shell in the image.
        assert!(
            matches!(outcome.report, LaunchReport::CommandNotStarted(_)),
            "{outcome:?}"
        );
        assert_eq!(output.status.code(), Some(127));
        return;
    };
    fs::copy(busybox, root.join("bin/sh")).unwrap();
    let request = PortableRequest {
        image_root: true,
        ..PortableRequest::default()
    };
    let (outcome, output) = action.run(
        "read line </etc/own; echo $line; read line </etc/passwd; echo $line",
        request,
    );
    assert_eq!(outcome.report, LaunchReport::Exited(0), "{output:?}");
    assert_eq!(text(&output), "image\nroot:x:0:0:root:/root:/bin/sh\n");
}

#[test]
fn names_the_step_that_fails_on_the_worker_of_the_engine() {
    let action = ActionDirectory::new();
    let request = PortableRequest {
        command: vec!["true".into()],
        ..PortableRequest::default()
    };
    fs::write(action.path(REQUEST), serde_json::to_vec(&request).unwrap()).unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"")
        .args(["sh", PROGRAM, RUN_ARGUMENT])
        .current_dir(action.directory.path())
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(0));
    let outcome = fs::read(action.path(OUTPUTS).join(OUTCOME)).unwrap();
    let outcome: PortableOutcome = serde_json::from_slice(&outcome).unwrap();
    let LaunchReport::Failed { step, .. } = &outcome.report else {
        panic!("{outcome:?}");
    };
    assert_eq!(step, "unshare user and mount namespaces");
    assert!(String::from_utf8_lossy(&output.stderr).contains(step.as_str()));
}
