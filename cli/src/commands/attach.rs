//! `bitzel attach`.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bitzel_builds::{event_of_message, place_outputs};
use bitzel_cas::retry::reconnection_pauses;
use bitzel_cas::{BlobStore, CountingBlobStore, RemoteBlobStore};
use bitzel_graph::walk::{BuildEvent, ServerCondition, Summary};
use bitzel_proto::builds::attach_build_response::Message;
use bitzel_proto::builds::builds_client::BuildsClient;
use bitzel_proto::builds::{AttachBuildRequest, Build, build};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_rpc::endpoint::Channel;
use tokio::sync::mpsc;
use tonic::Status;

use crate::arguments::{AttachArguments, FarmArguments};
use crate::build_list::short_name;
use crate::command_error::CommandError;
use crate::connection::connect;
use crate::console;
use crate::display::{Display, DisplayItem, summary_text};
use crate::hand_over::explained;
use crate::interrupt;
use crate::status_hint::with_status_hint;
use crate::visible_text::visible;

/// Sum of the pauses without an answer of a server before the command gives up.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest pause before jitter.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(8);

/// Shows a build to its end. The exit code is 1 unless it succeeds.
pub(crate) async fn run(arguments: AttachArguments) -> Result<ExitCode, CommandError> {
    let channel = channel(&arguments.farm).await?;
    let display = Display::new(arguments.events.as_deref(), true)?;
    let (items, receiver) = mpsc::unbounded_channel();
    let shown = tokio::spawn(display.show(receiver));
    let mut attachment = Attachment {
        channel: channel.clone(),
        items,
        request: AttachBuildRequest {
            build: arguments.build.unwrap_or_default(),
            ..AttachBuildRequest::default()
        },
        summary: None,
    };
    let ended = tokio::select! {
        ended = attachment.follow() => Some(ended),
        () = interrupt::interrupted() => None,
    };
    let Attachment {
        items,
        request,
        summary,
        ..
    } = attachment;
    drop(items);
    shown.await??;
    let Some(ended) = ended else {
        writeln!(
            io::stderr(),
            "the build goes on; `bitzel attach {name}` shows it again, `bitzel cancel {name}` ends it",
            name = short_name(&request.build)
        )?;
        return Ok(interrupt::INTERRUPTED.into());
    };
    let build = ended?;
    let mut downloaded = 0;
    if let Some(output) = &arguments.output
        && build.results.is_some()
    {
        downloaded = tokio::select! {
            placed = place(&channel, &build, output) => placed?,
            () = interrupt::interrupted() => return Ok(interrupt::INTERRUPTED.into()),
        };
    }
    if let Some(mut summary) = summary {
        summary.bytes_downloaded = downloaded;
        writeln!(io::stdout(), "{}", visible(&summary_text(&summary)))?;
    }
    let name = short_name(&build.id);
    match build.state() {
        build::State::Succeeded => Ok(ExitCode::SUCCESS),
        build::State::Cancelled => {
            writeln!(io::stderr(), "the build {name} was cancelled")?;
            Ok(ExitCode::FAILURE)
        }
        _ if build.error.is_empty() => Ok(ExitCode::FAILURE),
        _ => Err(CommandError::new(build.error.clone()).context(format!("the build {name} has failed"))),
    }
}

/// Channel to the server of the farm.
pub(crate) async fn channel(arguments: &FarmArguments) -> Result<Channel, CommandError> {
    let Some(address) = &arguments.remote else {
        return Err(CommandError::new("no server is named")
            .hint("give --remote grpc://host:port, or set BITZEL_REMOTE"));
    };
    connect(address, &arguments.credentials.credentials()?).await
}

/// Writes the results of a build that has ended. Returns the number of bytes that were downloaded.
async fn place(channel: &Channel, build: &Build, output: &Path) -> Result<u64, CommandError> {
    let instance = InstanceName::new(build.instance_name.as_str())?;
    let digest = |wire| Digest::from_wire_field(DigestFunction::Sha256, wire);
    let (plan, results) = (digest(build.plan.as_ref())?, digest(build.results.as_ref())?);
    let store = RemoteBlobStore::connect(channel.clone(), instance).await;
    let counting = Arc::new(CountingBlobStore::new(Arc::new(store.map_err(with_status_hint)?)));
    let store: Arc<dyn BlobStore> = counting.clone();
    let placed = place_outputs(&store, plan, results, output).await;
    placed.map_err(|error| {
        CommandError::from(error)
            .context("the output cannot be placed")
            .hint("if the store has evicted a part of it, build again: only that is executed")
    })?;
    Ok(counting.bytes_read())
}

/// Stream of a build, over all of its connections.
struct Attachment {
    channel: Channel,
    items: mpsc::UnboundedSender<DisplayItem>,
    /// Request for what was not shown yet.
    request: AttachBuildRequest,
    summary: Option<Summary>,
}

impl Attachment {
    /// Shows the build to its end, and returns it.
    async fn follow(&mut self) -> Result<Build, CommandError> {
        let mut pauses = reconnection_pauses(MAX_RETRY_PAUSE);
        let mut remaining = RETRY_TIMEOUT;
        loop {
            let mut has_answered = false;
            let status = match self.attempt(&mut has_answered).await {
                Ok(build) => return Ok(build),
                Err(status) => status,
            };
            if has_answered {
                pauses = reconnection_pauses(MAX_RETRY_PAUSE);
                remaining = RETRY_TIMEOUT;
            }
            // At the beginning, an address may be wrong.
            let may_retry = !self.request.log.is_empty() && ServerCondition::of_status(&status).is_some();
            if !may_retry || remaining.is_zero() {
                return Err(explained(status));
            }
            if has_answered {
                console::print("the server is gone; trying again");
            }
            let pause = pauses.next().unwrap_or(MAX_RETRY_PAUSE).min(remaining);
            remaining -= pause;
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&mut self, has_answered: &mut bool) -> Result<Build, Status> {
        let mut builds = BuildsClient::new(self.channel.clone());
        let mut stream = builds.attach_build(self.request.clone()).await?.into_inner();
        while let Some(response) = stream.message().await? {
            *has_answered = true;
            match response.message {
                Some(Message::Attached(attached)) => {
                    if attached.log != self.request.log {
                        if !self.request.log.is_empty() {
                            self.show(DisplayItem::Restart);
                        }
                        self.summary = None;
                        self.request.after = 0;
                    }
                    self.request.log = attached.log;
                    self.request.build = attached.build.unwrap_or_default().id;
                }
                Some(Message::Earlier(earlier)) => self.show(DisplayItem::Earlier(earlier)),
                Some(Message::Event(event)) => {
                    self.request.after = event.sequence;
                    if let Some(event) = event_of_message(event) {
                        if let BuildEvent::Summary(summary) = &event {
                            self.summary = Some(summary.clone());
                        }
                        self.show(DisplayItem::Event(event));
                    }
                }
                Some(Message::Progress(progress)) => {
                    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
                    self.show(DisplayItem::Event(BuildEvent::Progress {
                        done: count(progress.done),
                        wanted: count(progress.wanted),
                        running: count(progress.running),
                    }));
                }
                Some(Message::Ended(build)) => return Ok(build),
                // Of a later version.
                None => {}
            }
        }
        Err(Status::unavailable("the stream ended before the build"))
    }

    fn show(&self, item: DisplayItem) {
        // The display ends with an error of its own, such as a full disk.
        self.items.send(item).ok();
    }
}
