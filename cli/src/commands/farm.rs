//! `bitzel status` and `bitzel workers`.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_proto::farm::{DrainWorkersRequest, GetFarmRequest, GetFarmResponse};
use bitzel_rpc::endpoint::Channel;

use crate::arguments::{FarmArguments, StatusArguments, WorkersArguments, WorkersCommand};
use crate::command_error::CommandError;
use crate::connection::connect;
use crate::farm_view::{FarmView, to_json};
use crate::interrupt;
use crate::status_hint::with_status_hint;

/// Pause between two states of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the state of the farm.
pub(crate) async fn status(arguments: StatusArguments) -> Result<ExitCode, CommandError> {
    let mut farm = client(&arguments.farm).await?;
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
    let mut farm = client(&arguments.farm).await?;
    match arguments.command {
        None => {
            let mut state = state(&mut farm).await?;
            state.waiting.clear();
            state.builds.clear();
            write!(io::stdout(), "{}", FarmView(&state))?;
        }
        Some(WorkersCommand::Drain { name }) => {
            let drained = farm.drain_workers(DrainWorkersRequest { name }).await;
            for name in drained.map_err(with_status_hint)?.into_inner().names {
                writeln!(io::stdout(), "{name} finishes its Actions and ends")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn client(arguments: &FarmArguments) -> Result<FarmClient<Channel>, CommandError> {
    let Some(address) = &arguments.remote else {
        return Err(CommandError::new("no server is named")
            .hint("give --remote grpc://host:port, or set BITZEL_REMOTE"));
    };
    let credentials = arguments.credentials.credentials()?;
    Ok(FarmClient::new(connect(address, &credentials).await?))
}

async fn state(farm: &mut FarmClient<Channel>) -> Result<GetFarmResponse, CommandError> {
    let state = farm.get_farm(GetFarmRequest {}).await;
    Ok(state.map_err(with_status_hint)?.into_inner())
}
