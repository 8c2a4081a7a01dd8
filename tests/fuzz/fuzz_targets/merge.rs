//! Merged input roots: a merge either reports a conflict or gives a tree with all entries of both sides.

#![no_main]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bitzel_proto::validate_directory;
use bitzel_proto::reapi::Directory;
use bitzel_graph::plan::tree::{DIGEST_FUNCTION, Directories, Node, Tree};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fn names(directory: &Directory) -> BTreeSet<String> {
    let files = directory.files.iter().map(|file| file.name.clone());
    let directories = directory.directories.iter().map(|child| child.name.clone());
    let symlinks = directory.symlinks.iter().map(|symlink| symlink.name.clone());
    files.chain(directories).chain(symlinks).collect()
}

fuzz_target!(|encoded: (&[u8], &[u8])| {
    let (Ok(first), Ok(second)) = (Directory::decode(encoded.0), Directory::decode(encoded.1)) else {
        return;
    };
    if validate_directory(&first).is_err() || validate_directory(&second).is_err() {
        return;
    }
    let wanted: BTreeSet<String> = names(&first).union(&names(&second)).cloned().collect();
    let digests = [&first, &second].map(|directory| DIGEST_FUNCTION.digest(&directory.encode_to_vec()));
    let directories: Directories = HashMap::from([
        (digests[0], Arc::new(first)),
        (digests[1], Arc::new(second)),
    ]);
    let mut tree = Tree::stored(&directories, digests[0]);
    if tree.merge("", None, Some(&Node::Stored(digests[1])), &|_| false).is_err() {
        return;
    }
    let finished = tree.finish();
    let root = match finished.blobs.iter().find(|(digest, _)| *digest == finished.root) {
        Some((_, blob)) => Directory::decode(blob.clone()).expect("our own message"),
        None => Directory::clone(&directories[&finished.root]),
    };
    assert_eq!(names(&root), wanted);
    assert_eq!(validate_directory(&root), Ok(()));
});
