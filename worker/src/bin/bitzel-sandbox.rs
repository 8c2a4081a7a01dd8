//! The sandbox launcher as a program of its own, for tests and for workers that are not the `bitzel` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bitzel_worker::launcher::main(std::env::args_os().skip(1))
}
