//! Outputs equal the tree that the command saw at its end, after any sequence of changes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use bitzel_proto::reapi::{Directory, NodeProperties, Tree};
use bitzel_proto::{Digest, DigestFunction};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::*;

/// A change that a command makes to its tree. Changes that fail, for example of an absent file, are skipped.
#[derive(Debug, Clone)]
enum Step {
    Write(String, String),
    Append(String, String),
    Remove(String),
    RemoveTree(String),
    MakeDirectory(String),
    Symlink(String, String),
    Hardlink(String, String),
    Rename(String, String),
    Mode(String, u32),
}

impl Step {
    fn python(&self) -> String {
        match self {
            Self::Write(path, text) => format!("open({path:?}, 'w').write({text:?})"),
            Self::Append(path, text) => format!("open({path:?}, 'a').write({text:?})"),
            Self::Remove(path) => format!("os.unlink({path:?})"),
            Self::RemoveTree(path) => format!("shutil.rmtree({path:?})"),
            Self::MakeDirectory(path) => format!("os.mkdir({path:?})"),
            Self::Symlink(target, path) => format!("os.symlink({target:?}, {path:?})"),
            Self::Hardlink(source, path) => format!("os.link({source:?}, {path:?}, follow_symlinks=False)"),
            Self::Rename(source, path) => format!("shutil.move({source:?}, {path:?})"),
            Self::Mode(path, mode) => format!("os.chmod({path:?}, {mode})"),
        }
    }
}

/// Paths of the initial tree, and others beside and below them.
fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 1..4).prop_map(|names| format!("t/{}", names.join("/")))
}

fn step() -> impl Strategy<Value = Step> {
    let text = "[xyz]{0,3}";
    prop_oneof![
        3 => (path(), text).prop_map(|(path, text)| Step::Write(path, text)),
        2 => (path(), text).prop_map(|(path, text)| Step::Append(path, text)),
        3 => path().prop_map(Step::Remove),
        3 => path().prop_map(Step::RemoveTree),
        4 => path().prop_map(Step::MakeDirectory),
        2 => (path(), path()).prop_map(|(target, path)| Step::Symlink(target, path)),
        3 => (path(), path()).prop_map(|(source, path)| Step::Hardlink(source, path)),
        3 => (path(), path()).prop_map(|(source, path)| Step::Rename(source, path)),
        2 => (path(), prop::sample::select(vec![0o700, 0o755, 0o4711])).prop_map(|(path, mode)| Step::Mode(path, mode)),
    ]
}

/// Every path of `a`, `b`, `c` three levels deep: `a` is a directory, `b` a file, `c` a symlink.
fn initial(depth: usize) -> Node {
    let deeper = if depth == 0 {
        directory([])
    } else {
        initial(depth - 1)
    };
    directory([("a", deeper), ("b", file("b")), ("c", symlink("a/b"))])
}

/// Lists the tree: path, kind, mode, modification time, content or target, and its first name for a hardlink.
const LIST: &str = "
import hashlib
names = {}
entries = []
def walk(path):
    stat = os.lstat(path)
    entries.append((path, stat))
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            walk(path + '/' + name)
walk('t')
for path, stat in sorted(entries):
    if os.path.islink(path):
        print(path, 'link', os.readlink(path))
    elif os.path.isdir(path):
        print(path, 'directory', oct(stat.st_mode & 0o7777), stat.st_mtime_ns)
    else:
        first = names.setdefault(stat.st_ino, path)
        content = hashlib.sha256(open(path, 'rb').read()).hexdigest()
        print(path, 'file', oct(stat.st_mode & 0o7777), stat.st_mtime_ns, content, first)
";

/// The same list, from the messages.
fn list(tree: &Tree) -> String {
    let mut directories: HashMap<Digest, &Directory> = HashMap::new();
    for child in &tree.children {
        directories.insert(Digest::of_message(DigestFunction::Sha256, child).0, child);
    }
    let mut lines = BTreeMap::new();
    let mut pending = vec![("t".to_owned(), tree.root.as_ref().unwrap())];
    while let Some((path, directory)) = pending.pop() {
        let (mode, mtime) = attributes(directory.node_properties.as_ref(), 0o755);
        lines.insert(path.clone(), format!("{path} directory 0o{mode:o} {mtime}"));
        for node in &directory.symlinks {
            let path = format!("{path}/{}", node.name);
            lines.insert(path.clone(), format!("{path} link {}", node.target));
        }
        for node in &directory.files {
            let path = format!("{path}/{}", node.name);
            let (mode, mtime) = attributes(node.node_properties.as_ref(), 0o444);
            let hash = &node.digest.as_ref().unwrap().hash;
            let mut properties = node
                .node_properties
                .iter()
                .flat_map(|properties| &properties.properties);
            let group = properties.find(|property| property.name == "hardlink-group");
            let first = group.map_or(&path, |property| &property.value);
            let line = format!("{path} file 0o{mode:o} {mtime} {hash} {first}");
            lines.insert(path, line);
        }
        for node in &directory.directories {
            let digest = Digest::from_wire_field(DigestFunction::Sha256, node.digest.as_ref()).unwrap();
            pending.push((format!("{path}/{}", node.name), directories[&digest]));
        }
    }
    lines.into_values().map(|line| line + "\n").collect()
}

/// Mode and modification time in nanoseconds, the defaults where a node has none.
fn attributes(properties: Option<&NodeProperties>, default_mode: u32) -> (u32, i64) {
    let mode = properties
        .and_then(|properties| properties.unix_mode)
        .map_or(default_mode, |mode| mode.value);
    let mtime = properties.and_then(|properties| properties.mtime.as_ref());
    let nanos = mtime.map_or(946_684_800_000_000_000, |time| {
        time.seconds * 1_000_000_000 + i64::from(time.nanos)
    });
    (mode, nanos)
}

#[test]
fn outputs_equal_the_tree_that_the_command_saw() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let worker = runtime.block_on(Worker::new());
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let steps = prop::collection::vec(step(), 0..24);
    runner
        .run(&steps, |steps| {
            let mut script = "import os, shutil\n".to_owned();
            for step in &steps {
                let step = step.python();
                writeln!(script, "try: {step}\nexcept (OSError, shutil.Error): pass").unwrap();
            }
            script.push_str(LIST);
            for tree in directory([("t", initial(2)), ("script", plain_file(script))]).copied_and_overlaid() {
                let run = Run {
                    script: "python3 script",
                    outputs: &["t"],
                    properties: EXACT,
                    ..Run::default()
                };
                let (seen, collected) = runtime.block_on(async {
                    let result = worker.run(&tree, run).await;
                    (worker.stdout(&result).await, worker.tree(&result, "t").await)
                });
                prop_assert_eq!(list(&collected), seen);
            }
            Ok(())
        })
        .unwrap();
}
