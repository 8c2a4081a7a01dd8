//! Portable Action: the launcher is the command of an Action on an execution service that knows nothing of bitzel.
//!
//! It copies the tree out of the input root, with the modes and times of the request ([`staging`]), runs the command in
//! namespaces of its own ([`sandbox`]), and describes what the command left ([`changes`]). The tree is a copy because an
//! engine may give hardlinks to its cache, and an overlay would need a file system below it that can carry one: that of a
//! container cannot.

mod changes;
mod root_mounts;
mod sandbox;
mod staging;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use bitzel_launcher::LaunchReport;
use bitzel_launcher::portable::{
    IMAGE_ROOT, OUTCOME, OUTPUTS, PortableOutcome, PortableRequest, REQUEST, TREE,
};

use rustix::fs::Mode;
use rustix::process::umask;

use crate::failure::{Failure, InStep as _};
use crate::{open_files, raw_calls};
use changes::collect;
use sandbox::run_in_sandbox;
use staging::{Scratch, create_output_parents, snapshot, stage};

/// Exit code of a launcher that failed before the command, apart from codes that commands use. The outcome has the step.
const FAILED: u8 = 121;

/// Runs the portable Action in the working directory. The exit code is that of the command, because engines do not cache
/// an Action that failed.
pub(crate) fn run() -> ExitCode {
    let outcome = execute().unwrap_or_else(|failure| PortableOutcome {
        report: failure.into(),
        outputs: vec![],
        undeclared: vec![],
        undeclared_count: 0,
    });
    if let LaunchReport::Failed { step, reason, .. } = &outcome.report {
        say(&format!("bitzel-launcher: {step}: {reason}"));
    }
    let code = match &outcome.report {
        LaunchReport::Exited(code) => u8::try_from(*code).unwrap_or(1),
        LaunchReport::CommandNotStarted(reason) => {
            say(&format!("bitzel-launcher: {reason}"));
            127
        }
        LaunchReport::Failed { .. } | LaunchReport::BoundReached { .. } => FAILED,
    };
    // Another exit code than 0 keeps engines from caching the result.
    let code = if outcome.undeclared_count > 0 && code == 0 {
        FAILED
    } else {
        code
    };
    match write_outcome(&outcome) {
        Ok(()) => code.into(),
        Err(error) => {
            say(&format!("bitzel-launcher: write the outcome: {error}"));
            FAILED.into()
        }
    }
}

fn execute() -> Result<PortableOutcome, Failure> {
    // Engines differ in what their commands inherit.
    raw_calls::close_from(3).in_step("close inherited file descriptors")?;
    open_files::limit().in_step("limit open files")?;
    umask(Mode::WGRP | Mode::WOTH);
    let request = fs::read(REQUEST).in_step(format_args!("read {REQUEST}"))?;
    let request: PortableRequest =
        serde_json::from_slice(&request).in_step(format_args!("read {REQUEST}"))?;
    let outputs = Path::new(OUTPUTS);
    fs::create_dir_all(outputs).in_step(format_args!("create {OUTPUTS}"))?;
    let scratch = Scratch::create()?;
    let tree = scratch.path().join("tree");
    stage(&request.directories, Path::new(TREE), &tree)?;
    let before = snapshot(&tree).in_step("look at the tree")?;
    create_output_parents(&tree, &request.outputs).in_step("create the parents of outputs")?;
    let image_root = request.image_root.then(|| Path::new(IMAGE_ROOT));
    let report = run_in_sandbox(&request, scratch.path(), image_root)?;
    for (name, mut output) in [
        ("stdout", Box::new(io::stdout()) as Box<dyn io::Write>),
        ("stderr", Box::new(io::stderr())),
    ] {
        match File::open(scratch.path().join(name)) {
            Ok(mut log) => {
                io::copy(&mut log, &mut output).in_step(format_args!("pass {name} on"))?;
            }
            // The sandbox failed before it was created.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).in_step(format_args!("pass {name} on")),
        }
    }
    let changes = match report {
        LaunchReport::Exited(_) => collect(&request, &tree, Path::new(TREE), &before, outputs)?,
        _ => changes::Changes::default(),
    };
    scratch.remove();
    Ok(PortableOutcome {
        report,
        outputs: changes.outputs,
        undeclared: changes.undeclared,
        undeclared_count: changes.undeclared_count,
    })
}

fn write_outcome(outcome: &PortableOutcome) -> io::Result<()> {
    fs::create_dir_all(OUTPUTS)?;
    let mut file = io::BufWriter::new(File::create(Path::new(OUTPUTS).join(OUTCOME))?);
    serde_json::to_writer(&mut file, outcome)?;
    io::Write::flush(&mut file)
}

/// A line in the log of the Action.
#[expect(
    clippy::print_stderr,
    reason = "the engine collects it as the Action's standard error"
)]
fn say(text: &str) {
    eprintln!("{text}");
}
