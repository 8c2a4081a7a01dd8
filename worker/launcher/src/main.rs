//! Sandbox launcher: a single-threaded program that creates namespaces and starts the commands of Actions in them.
//!
//! A process needs a single thread to enter a mount namespace, so the worker cannot do this itself. It starts this
//! program and talks to it over a socket, see [`bitzel_launcher`] for the protocol.
//!
//! The launcher prepares once, with the first request, what all its commands share: namespaces for user, mounts, host
//! name, cgroups and a network with nothing but loopback or with an [`isolated_network`] ([`namespaces`]), and the
//! read-only file system that bubblewrap builds ([`shared_file_system`]), around the machine's `/usr` or in an image root
//! ([`image_root`]). bubblewrap needs a process that keeps its namespaces open meanwhile, the [`holder`]. For each command it forks a [`supervisor`] into further namespaces, which makes what
//! the command has for itself ([`confinement`]) and starts it. Why a command sees nothing of the one before it is in
//! `docs/decisions/0023-launchers-are-reused.md` and `docs/decisions/0025-one-bubblewrap-for-many-actions.md`.
//!
//! Bounds of a command are watched on two sides: the supervisor looks at its processes ([`process_watch`]), the launcher
//! at its files ([`disk_watch`]). What the kernel counts for the worker's user is shared out to launchers ([`limits`]).
//!
//! On execution services of others there is no worker of bitzel: the launcher is the command of a [`portable_action`].
//!
//! The supervisor is the first process of a process-id namespace, which the kernel ends after all others in it. The
//! launcher answers only then. When the worker's end of the socket closes, because the worker cancels or dies, the
//! launcher kills the supervisor, and with it all others, and exits. When the launcher itself is killed, the supervisor
//! dies with it.

mod confinement;
mod control;
mod disk_watch;
mod failure;
mod group_filter;
mod holder;
mod image_root;
mod isolated_network;
mod keyring;
mod launcher;
mod limits;
mod namespaces;
mod network;
mod open_files;
mod portable_action;
mod process_watch;
mod raw_calls;
mod routes;
mod shared_file_system;
mod supervisor;
mod system_calls;

use std::process::ExitCode;

use bitzel_launcher::portable;
use failure::{Failure, InStep as _};

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == holder::ARGUMENT)
    {
        // A failure needs no message: the launcher sees that the holder has ended.
        return holder::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    match std::env::args_os().nth(1) {
        Some(argument) if argument == portable::RUN_ARGUMENT => return portable_action::run(),
        Some(argument) if argument == portable::NOTHING_ARGUMENT => return ExitCode::SUCCESS,
        _ => {}
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If the worker does not listen any more, the failure concerns nobody.
            let _ = control::send_failure(failure);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    if let Some(argument) = std::env::args_os().nth(1) {
        return Err(Failure::new(
            "read the arguments",
            format!(
                "unexpected argument {}; the worker starts the sandbox launcher, without any",
                argument.display()
            ),
        ));
    }
    // Descriptors that some ancestor of the worker left open are not for commands.
    raw_calls::close_from(3).in_step("close inherited file descriptors")?;
    open_files::limit().in_step("limit open files")?;
    // The worker executes a file in memory, so the kernel knows no better name than a number.
    rustix::thread::set_name(c"bitzel-launcher").in_step("set this process's name")?;
    launcher::serve()
}
