//! Names with wildcards.

/// Name in which every `*` stands for any text, including none and including slashes: `*` matches everything, `team/*`
/// all instances below `team`, `""` the instance without a name. `docs/decisions/0034` says why no crate does this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Makes a pattern; every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// True if `name` matches. The time is linear in the lengths of pattern and name, whatever the name is.
    pub fn matches(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let first = pieces.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = pieces.next_back() else {
            // No wildcard: all of the name has to be there.
            return rest.is_empty();
        };
        // The first occurrence of each piece leaves the longest rest for those that follow.
        for piece in pieces {
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}
