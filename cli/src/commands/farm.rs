//! `bitzel status` and `bitzel workers`.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_proto::farm::{DrainWorkersRequest, GetFarmRequest, GetFarmResponse};
use bitzel_rpc::endpoint::{self, Channel};
use tonic::Status;

use crate::arguments::{FarmArguments, StatusArguments, WorkersArguments, WorkersCommand};
use crate::command_error::CommandError;
use crate::farm_view::{FarmView, to_json};
use crate::interrupt;
use crate::status_hint::status_hint;

/// Pause between two states of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the state of the farm.
pub(crate) async fn status(arguments: StatusArguments) -> Result<ExitCode, CommandError> {
    let mut farm = connect(&arguments.farm).await?;
    if arguments.json {
        writeln!(io::stdout(), "{:#}", to_json(&state(&mut farm).await?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let watch = async {
        loop {
            let state = state(&mut farm).await?;
            let clear = if arguments.watch && io::stdout().is_terminal() {
                CLEAR
            } else {
                ""
            };
            write!(io::stdout(), "{clear}{}", FarmView(&state))?;
            io::stdout().flush()?;
            if !arguments.watch {
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    };
    tokio::select! {
        ended = watch => ended.map(|()| ExitCode::SUCCESS),
        () = interrupt::interrupted() => Ok(ExitCode::SUCCESS),
    }
}

/// Lists or drains workers.
pub(crate) async fn workers(arguments: WorkersArguments) -> Result<ExitCode, CommandError> {
    let mut farm = connect(&arguments.farm).await?;
    match arguments.command {
        None => {
            let mut state = state(&mut farm).await?;
            state.waiting.clear();
            write!(io::stdout(), "{}", FarmView(&state))?;
        }
        Some(WorkersCommand::Drain { name }) => {
            let drained = farm.drain_workers(DrainWorkersRequest { name }).await;
            for name in drained.map_err(explain)?.into_inner().names {
                writeln!(io::stdout(), "{name} finishes its Actions and ends")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect(arguments: &FarmArguments) -> Result<FarmClient<Channel>, CommandError> {
    let Some(address) = &arguments.remote else {
        return Err(CommandError::new("no server is named")
            .hint("give --remote grpc://host:port, or set BITZEL_REMOTE"));
    };
    let credentials = arguments.credentials.credentials()?;
    let channel = endpoint::connect_with(address, &credentials).await;
    let channel = channel.map_err(|error| {
        CommandError::from(error).hint(format!(
            "is a server running at {address}? `bitzel serve` starts one"
        ))
    })?;
    Ok(FarmClient::new(channel))
}

async fn state(farm: &mut FarmClient<Channel>) -> Result<GetFarmResponse, CommandError> {
    let state = farm.get_farm(GetFarmRequest {}).await;
    Ok(state.map_err(explain)?.into_inner())
}

fn explain(status: Status) -> CommandError {
    let hint = status_hint(status.code());
    let error = CommandError::from(status);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
