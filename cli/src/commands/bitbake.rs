//! Requests of `bitzel build` that BitBake's own program answers: `-e`, `-g` and `-S`.

use std::process::ExitCode;

use bitzel_bitbake::run_original_program;

use crate::arguments::{BuildArguments, MetadataArguments};
use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::front_end::configuration;

/// Arguments of `bitbake` for these arguments, or `None` if they ask for a build.
pub(crate) fn arguments(build: &BuildArguments) -> Option<Vec<String>> {
    let (request, target) = (&build.bitbake, &build.target);
    if !request.environment && !request.graphviz && request.dump_signatures.is_empty() {
        return None;
    }
    let flags = [
        ("-e", request.environment),
        ("-g", request.graphviz),
        ("-f", target.force),
        ("-k", build.keep_going),
        ("-n", build.dry_run),
    ];
    let options = [
        ("-S", request.dump_signatures.as_slice()),
        ("-c", target.task.as_slice()),
        ("-C", target.clear_stamp.as_slice()),
        ("--runall", &target.run_all),
        ("--runonly", &target.run_only),
    ];
    let mut arguments: Vec<String> = flags
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| name.to_owned())
        .collect();
    for (name, values) in options {
        for value in values {
            arguments.extend([name.to_owned(), value.clone()]);
        }
    }
    arguments.extend(target.targets.iter().cloned());
    Some(arguments)
}

/// Runs BitBake's program to its end. The exit code is the program's.
pub(crate) async fn run(
    directories: &Directories,
    metadata: &MetadataArguments,
    arguments: &[String],
) -> Result<ExitCode, CommandError> {
    let config = configuration(directories, metadata)?;
    let status = run_original_program(&config, arguments).await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
