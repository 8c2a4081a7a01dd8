//! Events of the model, in any order.

use proptest::prelude::*;

/// The platform properties of a kind of Action, or of a kind of worker.
pub(super) const KINDS: [&[(&str, &str)]; 3] = [
    &[],
    &[("OSFamily", "linux")],
    &[("OSFamily", "linux"), ("gpu", "1")],
];

/// Amounts of memory in GiB.
const MEMORIES: [u64; 4] = [0, 0, 4, 16];

/// An event. Numbers select one of the existing items, modulo their number.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Execute {
        name: u8,
        kind: usize,
        user: u8,
        priority: i32,
        /// GiB of memory that it states.
        memory: u64,
        do_not_cache: bool,
        not_yet_visible: bool,
    },
    Attach(usize),
    Detach(usize),
    Register {
        slots: u32,
        kind: usize,
        /// GiB of memory that it offers; 0 if it does not tell.
        memory: u64,
    },
    /// The result of an Action tells how much memory it used, in GiB.
    Learn(usize, u64),
    /// An Action reached the bound of its memory.
    ReachBound(usize, u64),
    Drain(usize),
    /// The stream of a worker ends.
    Disconnect(usize),
    /// A worker whose stream ended connects again. Its Actions went on.
    ComeBack(usize),
    ChangeStage(usize),
    Complete(usize),
    CompleteAgain(usize),
    Return(usize),
    Finish(usize),
    Retry(usize),
    Pass(u64),
    /// A restart of the server. The bits say which workers come back.
    Restart(u64),
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (
            (0..6u8, 0..KINDS.len(), 0..4u8, -1..2, 0..MEMORIES.len()),
            (prop::bool::weighted(0.2), any::<bool>()),
        ).prop_map(
            |((name, kind, user, priority, memory), (do_not_cache, not_yet_visible))| Event::Execute {
                name, kind, user, priority, memory: MEMORIES[memory], do_not_cache, not_yet_visible,
            }
        ),
        1 => any::<usize>().prop_map(Event::Attach),
        2 => any::<usize>().prop_map(Event::Detach),
        2 => (1..4u32, 0..KINDS.len(), 0..MEMORIES.len()).prop_map(|(slots, kind, memory)| {
            Event::Register { slots, kind, memory: MEMORIES[memory] }
        }),
        1 => (any::<usize>(), 0..20u64).prop_map(|(pick, memory)| Event::Learn(pick, memory)),
        1 => (any::<usize>(), 1..20u64).prop_map(|(pick, memory)| Event::ReachBound(pick, memory)),
        1 => any::<usize>().prop_map(Event::Drain),
        2 => any::<usize>().prop_map(Event::Disconnect),
        2 => any::<usize>().prop_map(Event::ComeBack),
        1 => any::<usize>().prop_map(Event::ChangeStage),
        4 => any::<usize>().prop_map(Event::Complete),
        1 => any::<usize>().prop_map(Event::CompleteAgain),
        1 => any::<usize>().prop_map(Event::Return),
        4 => any::<usize>().prop_map(Event::Finish),
        1 => any::<usize>().prop_map(Event::Retry),
        2 => (0..40u64).prop_map(Event::Pass),
        1 => any::<u64>().prop_map(Event::Restart),
    ]
}
