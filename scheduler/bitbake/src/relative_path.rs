//! Relative paths that metadata has chosen.

use std::path::{Component, Path};

/// True if a path leads to something below the directory that it starts in.
pub(crate) fn stays_below(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && components.all(|component| matches!(component, Component::Normal(_)))
}
