//! All Directory messages below one root.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_proto::Digest;
use bitzel_proto::reapi::Directory;
use prost::Message;

use crate::error::Error;

pub(crate) struct DirectoryTree {
    pub root: Digest,
    pub directories: HashMap<Digest, Arc<Directory>>,
}

pub(crate) async fn fetch_directory_tree(store: &dyn BlobStore, root: Digest) -> Result<DirectoryTree, Error> {
    let mut directories = HashMap::new();
    let mut pending = vec![root];
    let mut missing = vec![];
    while !pending.is_empty() {
        let blobs = store.read_batch(&pending).await;
        let mut next = vec![];
        for (digest, blob) in pending.iter().zip(blobs) {
            match blob {
                Ok(bytes) => {
                    let directory = Directory::decode(bytes)
                        .map_err(|source| Error::InvalidAction(format!("Directory {digest}: {source}")))?;
                    validate_directory(&directory)?;
                    for child in &directory.directories {
                        next.push(
                            Digest::from_wire_field(root.function(), child.digest.as_ref())
                                .map_err(Error::digest("DirectoryNode.digest"))?,
                        );
                    }
                    directories.insert(*digest, Arc::new(directory));
                }
                Err(bitzel_cas::Error::NotFound(digest)) => missing.push(digest),
                Err(error) => return Err(error.into()),
            }
        }
        next.sort_unstable();
        next.dedup();
        next.retain(|digest| !directories.contains_key(digest));
        pending = next;
    }
    if missing.is_empty() {
        Ok(DirectoryTree { root, directories })
    } else {
        Err(Error::MissingBlobs(missing))
    }
}

fn validate_directory(directory: &Directory) -> Result<(), Error> {
    let files = directory.files.iter().map(|node| &node.name);
    let directories = directory.directories.iter().map(|node| &node.name);
    let symlinks = directory.symlinks.iter().map(|node| &node.name);
    let mut names: Vec<&String> = files.chain(directories).chain(symlinks).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::InvalidAction(format!("a Directory has two entries {:?}", twice[0])));
    }
    for name in names {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Error::InvalidAction(format!("a Directory has an entry with the name {name:?}")));
        }
    }
    Ok(())
}
