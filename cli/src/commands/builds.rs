//! `bitzel builds` and `bitzel cancel`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::SystemTime;

use bitzel_proto::builds::builds_client::BuildsClient;
use bitzel_proto::builds::{CancelBuildRequest, ListBuildsRequest, build};
use serde_json::json;

use crate::arguments::{BuildsArguments, CancelArguments};
use crate::build_list::{build_line, short_name, to_json};
use crate::command_error::CommandError;
use crate::commands::attach::channel;
use crate::hand_over::explained;

/// Lists the builds of a server.
pub(crate) async fn list(arguments: BuildsArguments) -> Result<ExitCode, CommandError> {
    let mut client = BuildsClient::new(channel(&arguments.farm).await?);
    let listed = client
        .list_builds(ListBuildsRequest {})
        .await
        .map_err(explained)?;
    let builds = listed.into_inner().builds;
    if arguments.json {
        let builds: Vec<_> = builds.iter().map(to_json).collect();
        writeln!(io::stdout(), "{:#}", json!({ "builds": builds }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if builds.is_empty() {
        writeln!(io::stdout(), "no builds")?;
    }
    for build in &builds {
        writeln!(io::stdout(), "{}", build_line(build, SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends a build.
pub(crate) async fn cancel(arguments: CancelArguments) -> Result<ExitCode, CommandError> {
    let mut client = BuildsClient::new(channel(&arguments.farm).await?);
    let request = CancelBuildRequest {
        build: arguments.build,
    };
    let cancelled = client.cancel_build(request).await.map_err(explained)?;
    let build = cancelled.into_inner().build.unwrap_or_default();
    let name = short_name(&build.id);
    let text = match build.state() {
        build::State::Cancelled => format!("{name} is cancelled; finished tasks are kept"),
        _ => format!("{name} has ended before"),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
