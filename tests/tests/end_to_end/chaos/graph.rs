//! Graph of small Actions whose outputs depend on their inputs, with the outputs that they have without faults.

use std::fmt::Write as _;

use bitzel_proto::reapi::{
    Action, Command, Directory, DirectoryNode, FileNode, OutputSymlink, SymlinkNode, Tree, command,
};
use bitzel_proto::{Digest, DigestFunction};

pub(super) const FUNCTION: DigestFunction = DigestFunction::Sha256;
/// Number of Actions.
pub(super) const ACTIONS: usize = 300;
/// Earlier Actions that an Action may depend on: small enough for a deep graph.
const MAX_DISTANCE: usize = 40;
const MAX_DEPENDENCIES: usize = 3;
/// One Action in so many has a large output.
const LARGE_OUTPUT_INTERVAL: usize = 12;
/// Larger than the blobs that a store keeps in segments, so that it is a file that a test can remove.
pub(super) const LARGE_BYTES: usize = 1_200_000;
/// Longest sleep of a command. It is most of its time.
const MAX_MILLISECONDS: u64 = 600;

/// Command of an Action. Its arguments: salt, name, seconds, size of the large output.
const COMMAND: &str = r#"set -e
{ echo "$1 $2"; for d in in big; do if [ -d $d ]; then cat $d/*; fi; done; } | sha256sum | cut -c 1-64 > out
mkdir tree
cp out tree/copy
ln -s copy tree/link
if [ "$4" != 0 ]; then yes "$(cat out)" | head -c "$4" > large; fi
sleep "$3"
echo done
"#;

/// An Action and its model.
pub(super) struct Node {
    pub(super) dependencies: Vec<usize>,
    milliseconds: u64,
    has_large_output: bool,
    /// Content of the output `out` without faults.
    out: Vec<u8>,
    /// Content of the output `large`, if it has one.
    large: Option<Vec<u8>>,
}

/// Names and digests of the outputs of an Action.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Outputs {
    pub(super) files: Vec<(String, Digest)>,
    pub(super) trees: Vec<(String, Digest)>,
    pub(super) links: Vec<OutputSymlink>,
}

/// The blobs of an Action that its client has.
pub(super) struct ActionBlobs {
    pub(super) action: Digest,
    pub(super) blobs: Vec<(Digest, Vec<u8>)>,
}

/// Directed graph without cycles: an Action depends on earlier ones.
pub(super) struct Graph {
    salt: String,
    pub(super) nodes: Vec<Node>,
}

impl Graph {
    pub(super) fn new(random: &mut fastrand::Rng, salt: &str) -> Self {
        let mut nodes: Vec<Node> = vec![];
        for number in 0..ACTIONS {
            let mut dependencies: Vec<usize> = vec![];
            if number > 0 {
                for _ in 0..random.usize(0..=MAX_DEPENDENCIES) {
                    dependencies.push(random.usize(number.saturating_sub(MAX_DISTANCE)..number));
                }
            }
            dependencies.sort_unstable();
            dependencies.dedup();
            let has_large_output = random.usize(0..LARGE_OUTPUT_INTERVAL) == 0;
            let mut content = format!("{salt} {}\n", name(number)).into_bytes();
            for dependency in &dependencies {
                content.extend(&nodes[*dependency].out);
            }
            for dependency in &dependencies {
                content.extend(nodes[*dependency].large.iter().flatten());
            }
            let line = FUNCTION.digest(&content).hash_hex() + "\n";
            nodes.push(Node {
                dependencies,
                milliseconds: random.u64(0..MAX_MILLISECONDS),
                has_large_output,
                large: has_large_output.then(|| line.bytes().cycle().take(LARGE_BYTES).collect()),
                out: line.into_bytes(),
            });
        }
        Self {
            salt: salt.to_owned(),
            nodes,
        }
    }

    /// Actions that a client asks for. The graphs of the clients overlap.
    pub(super) fn targets(&self, client: usize, clients: usize) -> Vec<usize> {
        let is_asked_for = |number: &usize| number % (clients + 1) != client;
        (0..self.nodes.len()).filter(is_asked_for).collect()
    }

    /// Outputs without faults.
    pub(super) fn expected(&self, number: usize) -> Outputs {
        let node = &self.nodes[number];
        let out = FUNCTION.digest(&node.out);
        let root = Directory {
            files: vec![file("copy".to_owned(), out)],
            symlinks: vec![SymlinkNode {
                name: "link".to_owned(),
                target: "copy".to_owned(),
                ..SymlinkNode::default()
            }],
            ..Directory::default()
        };
        let tree = Tree {
            root: Some(root),
            children: vec![],
        };
        let mut files = vec![("out".to_owned(), out)];
        if let Some(large) = &node.large {
            files.insert(0, ("large".to_owned(), FUNCTION.digest(large)));
        }
        Outputs {
            files,
            trees: vec![("tree".to_owned(), Digest::of_message(FUNCTION, &tree).0)],
            links: vec![],
        }
    }

    /// The Action on outputs of its dependencies, in their order.
    pub(super) fn action(&self, number: usize, inputs: &[Outputs]) -> ActionBlobs {
        let node = &self.nodes[number];
        let mut blobs = vec![];
        let mut root = Directory::default();
        for (directory, output) in [("big", "large"), ("in", "out")] {
            let named = node.dependencies.iter().zip(inputs);
            let files = named.filter_map(|(dependency, outputs)| {
                let (_, digest) = outputs.files.iter().find(|(name, _)| name == output)?;
                Some(file(name(*dependency), *digest))
            });
            let content = Directory {
                files: files.collect(),
                ..Directory::default()
            };
            if !content.files.is_empty() {
                let digest = add(&mut blobs, &content);
                root.directories.push(DirectoryNode {
                    name: directory.to_owned(),
                    digest: Some(digest.to_wire()),
                });
            }
        }
        let mut seconds = String::new();
        write!(
            seconds,
            "{}.{:03}",
            node.milliseconds / 1000,
            node.milliseconds % 1000
        )
        .expect("a string");
        let large = if node.has_large_output { LARGE_BYTES } else { 0 };
        let arguments = [
            "/bin/sh",
            "-c",
            COMMAND,
            "chaos",
            &self.salt,
            &name(number),
            &seconds,
            &large.to_string(),
        ];
        let mut output_paths = vec!["out".to_owned(), "tree".to_owned()];
        if node.has_large_output {
            output_paths.insert(0, "large".to_owned());
        }
        let command = Command {
            arguments: arguments.map(str::to_owned).to_vec(),
            environment_variables: vec![command::EnvironmentVariable {
                name: "PATH".to_owned(),
                value: "/usr/bin:/bin".to_owned(),
            }],
            output_paths,
            ..Command::default()
        };
        let action = Action {
            command_digest: Some(add(&mut blobs, &command).to_wire()),
            input_root_digest: Some(add(&mut blobs, &root).to_wire()),
            ..Action::default()
        };
        let action = add(&mut blobs, &action);
        ActionBlobs { action, blobs }
    }
}

/// Zero-padded, so that the order by name is that by number.
pub(super) fn name(number: usize) -> String {
    format!("{number:04}")
}

fn file(name: String, digest: Digest) -> FileNode {
    FileNode {
        name,
        digest: Some(digest.to_wire()),
        ..FileNode::default()
    }
}

fn add(blobs: &mut Vec<(Digest, Vec<u8>)>, message: &impl prost::Message) -> Digest {
    let bytes = message.encode_to_vec();
    let digest = FUNCTION.digest(&bytes);
    blobs.push((digest, bytes));
    digest
}
