//! The worker's socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use bitzel_launcher::{LaunchAnswer, LaunchReport};
use serde::de::DeserializeOwned;

use crate::failure::{Failure, InStep as _};

/// The launcher's end of the control socket.
pub(crate) struct Control(BufReader<UnixStream>);

impl Control {
    /// Standard input.
    pub(crate) fn open() -> Result<Self, Failure> {
        Ok(Self(BufReader::new(stdin().in_step("open the control socket")?)))
    }

    /// The worker's next message; `None` if the worker has closed its end.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let mut line = String::new();
        if self.0.read_line(&mut line).in_step("read the request")? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).in_step("read the request")
    }

    /// Sends an answer.
    pub(crate) fn send(&mut self, answer: &LaunchAnswer) -> io::Result<()> {
        send(self.0.get_ref(), answer)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Sends the last answer of a launcher that failed.
pub(crate) fn send_failure(failure: Failure) -> io::Result<()> {
    let answer = LaunchAnswer {
        report: LaunchReport::from(failure),
        reusable: false,
        peak_disk_bytes: 0,
    };
    send(&stdin()?, &answer)
}

fn stdin() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn send(mut socket: &UnixStream, answer: &LaunchAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    socket.write_all(&line)
}
