//! Builds that a server walks by itself, so that they outlive the client that handed them over.
//!
//! * [`hand_over`] is the client's part: it uploads a plan with everything that the walk needs.
//! * [`build_table`] decides which builds there are: a state machine without I/O.
//! * [`Builds`] walks them with [`bitzel_graph::walk`], keeps their events in an [`event_log`], and records in a
//!   [`BuildJournal`] what the next run of the server must know.
//! * [`BuildsService`] answers clients.
//!
//! ```text
//!  client ── plan, graph, metadata ──▶ store ◀──────────────────┐
//!     └───── StartBuild ──▶ BuildsService ──▶ Builds ──▶ Driver ─┴─▶ Execution service
//!     ◀───── AttachBuild ─────────── event_log ◀─┘   └─▶ BuildJournal
//! ```

mod build;
pub mod build_table;
mod builds;
mod config;
mod error;
pub mod event_log;
mod event_messages;
pub mod hand_over;
mod handed_over;
mod journal;
mod record;
mod results;
mod service;
mod stored_files;
mod unrecorded_action_cache;

pub use build::{BuildEnd, BuildId, BuildRequest, Ending, Owner};
pub use builds::{BuildExecutions, Builds, BuildsParts};
pub use config::BuildsConfig;
pub use error::BuildsError;
pub use event_log::TaskCounts;
pub use event_messages::{event_of_message, summary_of_message};
pub use journal::{BuildJournal, RestoredBuild};
pub use results::place_outputs;
pub use service::BuildsService;
