//! Holder: process of bubblewrap that keeps the new namespaces until the launcher has entered them.
//!
//! It is a second process of this program, and so the machine's code also in a root that a client made. It has no
//! capability, but it sees the worker's directory, so it must run nothing of that root.

use std::io::{self, Read as _, Write as _};

/// Argument of this program that makes it a holder.
pub(crate) const ARGUMENT: &str = "hold-namespaces";

/// Answers once, and waits for the end of the standard input.
pub(crate) fn run() -> io::Result<()> {
    let mut answer = [0];
    let mut input = io::stdin().lock();
    input.read_exact(&mut answer)?;
    let mut output = io::stdout().lock();
    output.write_all(&answer)?;
    output.flush()?;
    io::copy(&mut input, &mut io::sink())?;
    Ok(())
}
