//! Wrapping of an Action into one that carries the launcher.
#![expect(
    deprecated,
    reason = "engines of older versions of the specification read these fields"
)]

use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_launcher::portable::{
    Attributes, DirectoryAttributes, IMAGE_ROOT, LAUNCHER, NOTHING_ARGUMENT, OUTPUTS, PortableRequest,
    REQUEST, RUN_ARGUMENT, TREE, Time,
};
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{Action, Command, Directory, FileNode, NodeProperties, Platform};
use bitzel_proto::{Digest, DirectoryEncoder};
use bytes::Bytes;

use crate::plan::signature::blob;
use crate::plan::tree::DIGEST_FUNCTION;

/// Name of the property that makes several files names of one inode.
pub(super) const HARDLINK_GROUP: &str = "hardlink-group";
/// Environment that a worker of bitzel adds where a Command sets nothing.
const DEFAULT_ENVIRONMENT: [(&str, &str); 2] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/tmp"),
];

/// Parts that all portable Actions of a build share.
pub(super) struct Wrapping<'settings> {
    pub(super) launcher: Digest,
    pub(super) properties: &'settings [(String, String)],
    pub(super) image_root: Option<Digest>,
}

/// A portable Action, with the blobs that it adds to those of the wrapped one.
pub(super) struct PortableAction {
    pub(super) action: Digest,
    pub(super) blobs: Vec<(Digest, Bytes)>,
}

/// Wraps an Action whose input root is `tree`.
pub(super) fn wrap(
    wrapping: &Wrapping<'_>,
    action: &Action,
    command: &Command,
    tree: &DirectoryTree,
) -> PortableAction {
    let platform = action.platform.as_ref().or(command.platform.as_ref());
    let is_on = |name: &str| {
        let mut properties = platform.iter().flat_map(|platform| &platform.properties);
        properties.any(|property| property.name == name && property.value == "on")
    };
    let request = PortableRequest {
        command: command.arguments.clone(),
        environment: environment(command),
        working_directory: command.working_directory.clone(),
        network: is_on("network"),
        user_namespaces: is_on("user-namespaces"),
        image_root: wrapping.image_root.is_some(),
        outputs: command.output_paths.clone(),
        directories: attributes(tree),
    };
    assemble(wrapping, &request, tree.root, wrapping.image_root, action)
}

/// The Action that checks if an engine can run others: it makes a sandbox, and runs the launcher in it, or what each task
/// needs of the root of the engine's workers. An image root is left out: engines copy or link all of its files.
pub(super) fn check_action(wrapping: &Wrapping<'_>) -> PortableAction {
    let command: &[&str] = match wrapping.image_root {
        Some(_) => &["./bitzel-launcher", NOTHING_ARGUMENT],
        None => &["/usr/bin/python3", "-c", "pass"],
    };
    let request = PortableRequest {
        command: command.iter().map(|&argument| argument.to_owned()).collect(),
        ..PortableRequest::default()
    };
    let mut tree = DirectoryEncoder::new(None);
    tree.add_file(LAUNCHER.to_owned(), executable(wrapping.launcher));
    let tree = tree.encode(DIGEST_FUNCTION);
    let mut action = assemble(wrapping, &request, tree.digest, None, &Action::default());
    action.blobs.push((tree.digest, tree.bytes.into()));
    action
}

fn assemble(
    wrapping: &Wrapping<'_>,
    request: &PortableRequest,
    tree: Digest,
    image_root: Option<Digest>,
    wrapped: &Action,
) -> PortableAction {
    // Strings, numbers and lists: encoding cannot fail.
    let request: Bytes = serde_json::to_vec(request).unwrap_or_default().into();
    let request = (DIGEST_FUNCTION.digest(&request), request);
    let mut root = DirectoryEncoder::new(None);
    root.add_file(LAUNCHER.to_owned(), executable(wrapping.launcher));
    root.add_file(
        REQUEST.to_owned(),
        FileNode {
            digest: Some(request.0.to_wire()),
            ..FileNode::default()
        },
    );
    root.add_directory(TREE.to_owned(), tree);
    if let Some(image_root) = image_root {
        root.add_directory(IMAGE_ROOT.to_owned(), image_root);
    }
    let root = root.encode(DIGEST_FUNCTION);
    let command = blob(&Command {
        arguments: vec![format!("./{LAUNCHER}"), RUN_ARGUMENT.to_owned()],
        output_paths: vec![OUTPUTS.to_owned()],
        // Engines that know output_paths ignore it.
        output_directories: vec![OUTPUTS.to_owned()],
        platform: platform(wrapping),
        ..Command::default()
    });
    let action = blob(&Action {
        command_digest: Some(command.0.to_wire()),
        input_root_digest: Some(root.digest.to_wire()),
        timeout: wrapped.timeout,
        do_not_cache: wrapped.do_not_cache,
        platform: platform(wrapping),
        ..Action::default()
    });
    PortableAction {
        action: action.0,
        blobs: vec![action, command, request, (root.digest, root.bytes.into())],
    }
}

/// The properties that the user gives: no engine knows those of bitzel. `None` without any.
fn platform(wrapping: &Wrapping<'_>) -> Option<Platform> {
    let properties = wrapping.properties.iter().map(|(name, value)| Property {
        name: name.clone(),
        value: value.clone(),
    });
    let mut properties: Vec<Property> = properties.collect();
    properties.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
    (!properties.is_empty()).then_some(Platform { properties })
}

fn executable(digest: Digest) -> FileNode {
    FileNode {
        digest: Some(digest.to_wire()),
        is_executable: true,
        ..FileNode::default()
    }
}

fn environment(command: &Command) -> Vec<(String, String)> {
    let defaults = DEFAULT_ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = command
        .environment_variables
        .iter()
        .map(|variable| (variable.name.clone(), variable.value.clone()));
    let working_directory = match command.working_directory.as_str() {
        "" => bitzel_launcher::INPUT_ROOT.to_owned(),
        relative => format!("{}/{relative}", bitzel_launcher::INPUT_ROOT),
    };
    defaults
        .into_iter()
        .chain(own)
        .chain([("PWD".to_owned(), working_directory)])
        .collect()
}

/// All attributes of a tree. A Directory that is at several paths is listed at each of them.
fn attributes(tree: &DirectoryTree) -> Vec<DirectoryAttributes> {
    let mut listed = vec![];
    let mut pending = vec![(String::new(), tree.root)];
    while let Some((path, digest)) = pending.pop() {
        let Some(directory) = tree.directories.get(&digest) else {
            continue;
        };
        pending.extend(children(&path, directory));
        let attributes = DirectoryAttributes {
            attributes: attributes_of(directory.node_properties.as_ref()),
            files: directory
                .files
                .iter()
                .filter(|file| file.node_properties.is_some())
                .map(|file| (file.name.clone(), attributes_of(file.node_properties.as_ref())))
                .collect(),
            symlinks: directory
                .symlinks
                .iter()
                .filter_map(|symlink| Some((symlink.name.clone(), time(symlink.node_properties.as_ref())?)))
                .collect(),
            path,
        };
        let nothing = DirectoryAttributes {
            path: attributes.path.clone(),
            ..DirectoryAttributes::default()
        };
        if attributes != nothing {
            listed.push(attributes);
        }
    }
    listed
}

/// Children of a Directory, by path.
fn children(path: &str, directory: &Arc<Directory>) -> Vec<(String, Digest)> {
    let children = directory.directories.iter().filter_map(|node| {
        let digest = Digest::from_wire_field(DIGEST_FUNCTION, node.digest.as_ref()).ok()?;
        Some((join(path, &node.name), digest))
    });
    children.collect()
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

fn attributes_of(properties: Option<&NodeProperties>) -> Attributes {
    let group = properties.and_then(|properties| {
        let mut named = properties.properties.iter();
        named.find(|property| property.name == HARDLINK_GROUP)
    });
    Attributes {
        mode: properties
            .and_then(|properties| properties.unix_mode)
            .map(|mode| mode.value & 0o7777),
        mtime: time(properties),
        group: group.map(|group| group.value.clone()),
    }
}

fn time(properties: Option<&NodeProperties>) -> Option<Time> {
    let time = properties?.mtime.as_ref()?;
    Some((time.seconds, u32::try_from(time.nanos).unwrap_or(0)))
}
