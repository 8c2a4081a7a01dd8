//! Names with wildcards.

/// A name in which every `*` stands for any text, also none and also slashes: `*` is everything, `team/*` all
/// instances below `team`, `""` the instance without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Every text is a pattern.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether `name` is meant. Takes time in proportion to both lengths at worst, whatever the caller's name is.
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
        // The first place of each piece leaves the most room for those that follow.
        for piece in pieces {
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}
