//! Warning about event handlers of the metadata that do not run.

use bitzel_proto::graph::{EventHandler, TaskGraph};

use crate::console;
use crate::visible_text::visible;

/// Prints the handlers that wait for events of BitBake's server, unless the build before has printed the same.
pub(crate) fn warn(graph: &TaskGraph, before: Option<&TaskGraph>) {
    let handlers = handlers(graph);
    if before.is_some_and(|before| self::handlers(before) == handlers) {
        return;
    }
    for handler in handlers {
        console::print(&visible(&format!(
            "WARNING: the event handler {} does not run for {}: bitzel has no BitBake server (see docs/yocto.md)",
            handler.name,
            handler.events.join(", ")
        )));
    }
}

fn handlers(graph: &TaskGraph) -> &[EventHandler] {
    graph
        .settings
        .as_ref()
        .map_or(&[], |settings| &settings.unfired_handlers)
}
