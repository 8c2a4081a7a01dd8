//! `bitzel root`.

mod import;
mod make;

use std::io::{self, Write as _};
use std::process::ExitCode;

use bitzel_roots::{Checkout, RootFile, RootName, RootRecord};
use bitzel_worker::RootParts;
use indicatif::{HumanBytes, HumanCount};

use crate::arguments::{RootArguments, RootCommand};
use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::root::resolve;
use crate::visible_text::visible;

/// Prints the identity of this machine's root, or its parts.
pub(crate) fn identity(parts: bool) -> Result<ExitCode, CommandError> {
    let found = RootParts::of_this_machine()?;
    if parts {
        write!(io::stdout(), "{found}")?;
    } else {
        writeln!(io::stdout(), "{}", found.identity())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a subcommand.
pub(crate) async fn run(
    directories: &Directories,
    arguments: RootArguments,
) -> Result<ExitCode, CommandError> {
    match arguments.command {
        RootCommand::Identity { parts } => identity(parts),
        RootCommand::Import(arguments) => import::run(directories, *arguments).await,
        RootCommand::Make(arguments) => make::run(directories, *arguments).await,
        RootCommand::List => list(directories),
        RootCommand::Show { root, file } => show(directories, &root, file),
        RootCommand::Remove { root } => remove(directories, &root),
    }
}

fn list(directories: &Directories) -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    for (digest, root) in directories.roots().list()? {
        let names: Vec<&str> = root.names.iter().map(RootName::as_str).collect();
        let record = root.record.unwrap_or_default();
        let line = format!(
            "{digest}  {}  {}  {}",
            names.join(","),
            size(&record),
            record.source
        );
        writeln!(out, "{}", visible(&line))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn size(record: &RootRecord) -> String {
    if record.files == 0 {
        // It was fetched, not imported here.
        return "-".to_owned();
    }
    format!("{} files, {}", HumanCount(record.files), HumanBytes(record.bytes))
}

fn show(directories: &Directories, root: &str, file: bool) -> Result<ExitCode, CommandError> {
    let roots = directories.roots();
    let digest = resolve(&roots, root)?;
    let record = roots.find(digest)?;
    let checkout = Checkout::find(&roots.checkouts(), digest);
    let mut out = io::stdout().lock();
    if file {
        let file = RootFile {
            digest: digest.to_string(),
            source: record.unwrap_or_default().source,
        };
        write!(out, "{}", file.to_text())?;
        return Ok(ExitCode::SUCCESS);
    }
    if record.is_none() && checkout.is_none() {
        return Err(bitzel_roots::Error::Unknown(digest.to_string()).into());
    }
    let record = record.unwrap_or_default();
    writeln!(out, "digest       {digest}")?;
    writeln!(out, "source       {}", visible(&record.source))?;
    writeln!(out, "size         {}", size(&record))?;
    writeln!(out, "directories  {}", HumanCount(record.directories))?;
    writeln!(out, "symlinks     {}", HumanCount(record.symlinks))?;
    for line in record.losses.lines() {
        writeln!(out, "lost         {}", visible(&line))?;
    }
    if let Some(checkout) = checkout {
        writeln!(out, "checkout     {}", checkout.path().display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(directories: &Directories, root: &str) -> Result<ExitCode, CommandError> {
    let roots = directories.roots();
    roots.remove(resolve(&roots, root)?)?;
    Ok(ExitCode::SUCCESS)
}
