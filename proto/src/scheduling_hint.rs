//! Hints for the scheduler in the metadata of an `Execute` request.
//!
//! They are no part of the Action: the same Action has other ones in each build, and its digest must not change with them.
//! Any client may send them, and a server may ignore them. They decide only the order of the Actions of one invocation, and
//! the choice among idle workers.

use crate::Digest;

/// Header with the remaining path of an Action, a number of milliseconds: the time that the build still takes at least from
/// the start of this Action on, with all that follows after it.
pub const REMAINING_PATH: &str = "bitzel-remaining-path-ms";
/// Header with the largest trees in the input root of an Action, the most important first: the first 16 hexadecimal digits of
/// the hashes of their Directories, separated by commas.
pub const INPUT_TREES: &str = "bitzel-input-trees";
/// Number of trees that count. Further ones are ignored.
pub const MAX_INPUT_TREES: usize = 16;

/// Start of a tree's hash.
pub fn tree_hint(root: &Digest) -> u64 {
    let (start, _) = root.hash().split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*start)
}

/// Value of the header [`INPUT_TREES`].
pub fn input_trees(roots: &[Digest]) -> String {
    let roots = roots.iter().take(MAX_INPUT_TREES);
    let texts: Vec<String> = roots.map(|root| format!("{:016x}", tree_hint(root))).collect();
    texts.join(",")
}

/// Reads the value of the header [`INPUT_TREES`]. What cannot be read is left out.
pub fn parse_input_trees(text: &str) -> Vec<u64> {
    let trees = text.split(',').take(MAX_INPUT_TREES);
    trees
        .filter(|tree| tree.len() == 16 && tree.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .filter_map(|tree| u64::from_str_radix(tree, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DigestFunction;

    #[test]
    fn trees_are_read_as_they_were_written() {
        let roots: Vec<_> = (0..20u8)
            .map(|number| DigestFunction::Sha256.digest(&[number]))
            .collect();
        let expected: Vec<_> = roots[..MAX_INPUT_TREES].iter().map(tree_hint).collect();
        assert_eq!(parse_input_trees(&input_trees(&roots)), expected);
        let hash = roots[0].hash_hex();
        assert_eq!(format!("{:016x}", expected[0]), hash[..16]);
        assert_eq!(parse_input_trees("x,+123456789012345,,00000000000000ff"), [255]);
    }
}
