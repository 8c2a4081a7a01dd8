//! A mistake in a file, shown with the line that it is in.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bitzel_cas::composition::store_configuration::Problem;
use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// Text of a file that mistakes are shown in.
#[derive(Debug, Clone)]
pub(super) struct SourceFile(Arc<NamedSource<String>>);

impl SourceFile {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let source = NamedSource::new(path.to_string_lossy(), text.to_owned());
        Self(Arc::new(source))
    }
}

/// One mistake, with the file that it is in.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) problem: Problem,
    pub(super) file: SourceFile,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { key, message, .. } = &self.problem;
        if key.is_empty() {
            formatter.write_str(message)
        } else {
            write!(formatter, "{key}: {message}")
        }
    }
}

impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn help<'help>(&'help self) -> Option<Box<dyn fmt::Display + 'help>> {
        let hint = self.problem.hint.as_ref()?;
        Some(Box::new(hint))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.file.0)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Range { start, end } = self.problem.span.clone()?;
        let label = LabeledSpan::new(None, start, end.saturating_sub(start));
        Some(Box::new(std::iter::once(label)))
    }
}
