//! `bitzel graph`.

use std::io::{self, BufWriter, Write as _};
use std::process::ExitCode;

use crate::arguments::GraphArguments;
use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::front_end::export_graph;
use crate::interrupt;
use crate::root::local_root;

/// Exports the graph, and prints it or a summary.
pub(crate) async fn run(
    directories: &Directories,
    arguments: GraphArguments,
) -> Result<ExitCode, CommandError> {
    let export = async {
        let root = local_root(directories, &arguments.metadata).await?;
        export_graph(directories, &arguments.metadata, arguments.target, root).await
    };
    let export = tokio::select! {
        export = export => export?,
        () = interrupt::interrupted() => return Ok(interrupt::INTERRUPTED.into()),
    };
    let graph = &export.graph;
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        serde_json::to_writer(&mut out, graph)?;
        writeln!(out)?;
    } else {
        let edges: usize = graph.tasks.iter().map(|task| task.dependencies.len()).sum();
        let origin = if export.cached {
            "cached, nothing parsed"
        } else {
            "exported by BitBake"
        };
        writeln!(
            out,
            "{} recipes, {} tasks, {edges} dependencies ({origin} {})",
            graph.recipes.len(),
            graph.tasks.len(),
            graph.bitbake_version,
        )?;
        for target in &graph.targets {
            let task = &graph.tasks[*target as usize];
            let recipe = &graph.recipes[task.recipe as usize];
            writeln!(out, "{}:{} {}", recipe.package_name, task.name, task.taskhash)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
