//! The election alone, and several servers on one row with delays, losses and pauses.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LEASE: Duration = Duration::from_secs(3);

fn at(millis: u64) -> Time {
    Time::default() + Duration::from_millis(millis)
}

fn server(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn row(epoch: i64, renewals: i64, holder: Option<u128>) -> LeaderRow {
    LeaderRow {
        epoch,
        renewals,
        holder: holder.map(|holder| (server(holder), format!("grpc://{holder}"))),
        lease_time: LEASE,
    }
}

fn election() -> Election {
    Election::new(server(1), LEASE)
}

#[test]
fn the_first_server_leads_at_once() {
    let mut election = election();
    assert_eq!(election.step(at(0)), Step::Execute(Statement::Read));
    election.read(at(10), row(0, 0, None));
    assert_eq!(
        election.step(at(10)),
        Step::Execute(Statement::TakeOver(row(0, 0, None)))
    );
    election.taken_over(at(10), Some(1));
    let until = at(10 + 2_700);
    assert_eq!(election.leader(at(20)), Leader::Own { epoch: 1, until });
    assert_eq!(election.step(at(20)), Step::Wait(at(10 + 750)));
    assert_eq!(
        election.step(at(760)),
        Step::Execute(Statement::Renew { epoch: 1 })
    );
}

#[test]
fn a_leader_that_cannot_renew_stops_early() {
    let mut election = election();
    election.taken_over(at(0), Some(1));
    election.renewed(at(1_000), true);
    assert!(matches!(election.leader(at(3_699)), Leader::Own { .. }));
    assert_eq!(election.leader(at(3_700)), Leader::Unknown);
    assert_eq!(election.step(at(3_700)), Step::Execute(Statement::Read));
    // The answer comes too late: it does not count.
    election.renewed(at(3_600), true);
    assert_eq!(election.leader(at(3_701)), Leader::Unknown);
}

#[test]
fn another_server_takes_over_after_a_lease_without_renewal() {
    let mut election = election();
    election.read(at(0), row(5, 8, Some(2)));
    let address = "grpc://2".to_owned();
    assert_eq!(election.leader(at(10)), Leader::Other { epoch: 5, address });
    assert_eq!(election.step(at(10)), Step::Wait(at(3_000)));
    election.notified();
    assert_eq!(election.step(at(700)), Step::Execute(Statement::Read));
    election.read(at(710), row(5, 9, Some(2)));
    assert_eq!(election.step(at(3_000)), Step::Wait(at(3_710)));
    let address = "grpc://2".to_owned();
    let dead = Leader::Other { epoch: 5, address };
    assert_eq!(election.leader(at(3_710)), dead, "nobody else leads");
    let take_over = Step::Execute(Statement::TakeOver(row(5, 9, Some(2))));
    assert_eq!(election.step(at(3_710)), take_over);
    // Another one was faster.
    election.taken_over(at(3_710), None);
    assert_eq!(election.step(at(3_720)), Step::Execute(Statement::Read));
}

#[test]
fn a_notification_without_a_change_prolongs_nothing() {
    let mut election = election();
    election.read(at(0), row(5, 8, Some(2)));
    election.notified();
    election.read(at(2_000), row(5, 8, Some(2)));
    assert!(matches!(
        election.step(at(3_000)),
        Step::Execute(Statement::TakeOver(_))
    ));
}

#[test]
fn the_lease_of_the_leader_counts_if_it_is_longer() {
    let mut election = election();
    let lease_time = Duration::from_secs(10);
    let row = LeaderRow {
        lease_time,
        ..row(5, 8, Some(2))
    };
    election.read(at(0), row);
    assert_eq!(election.step(at(3_000)), Step::Wait(at(10_000)));
}

#[test]
fn nobody_waits_for_a_leader_that_resigned() {
    let mut election = election();
    election.read(at(0), row(5, 8, Some(2)));
    election.notified();
    election.read(at(100), row(5, 9, None));
    assert!(matches!(
        election.step(at(100)),
        Step::Execute(Statement::TakeOver(_))
    ));
}

#[test]
fn a_server_does_not_wait_for_itself() {
    let mut election = election();
    election.taken_over(at(0), Some(4));
    assert_eq!(election.step(at(2_700)), Step::Execute(Statement::Read));
    election.read(at(2_800), row(4, 3, Some(1)));
    assert_eq!(election.leader(at(2_800)), Leader::Nobody);
    assert!(matches!(
        election.step(at(2_800)),
        Step::Execute(Statement::TakeOver(_))
    ));
}

#[test]
fn a_server_that_gave_up_lets_others_take_over_first() {
    let mut election = election();
    election.taken_over(at(0), Some(4));
    election.deposed();
    election.read(at(100), row(4, 3, Some(1)));
    assert_eq!(election.step(at(100)), Step::Wait(at(6_100)));
    assert!(matches!(
        election.step(at(6_100)),
        Step::Execute(Statement::TakeOver(_))
    ));
}

#[test]
fn a_leader_is_known_until_the_row_changes() {
    let mut election = election();
    let leads = |election: &Election, now| matches!(election.leader(at(now)), Leader::Other { epoch: 5, .. });
    election.read(at(0), row(5, 8, Some(2)));
    assert_eq!(election.led_until(), Some(at(3_000)));
    election.notified();
    assert!(leads(&election, 60_000), "it is not forgotten by the clock");
    election.taken_over(at(60_000), None);
    assert_eq!(
        election.leader(at(60_000)),
        Leader::Unknown,
        "the row is to be read"
    );
    election.read(at(60_100), row(5, 9, None));
    assert_eq!(election.leader(at(60_100)), Leader::Nobody);
    assert_eq!(election.led_until(), None);
}

#[test]
fn a_deposed_leader_learns_it_from_its_renewal() {
    let mut election = election();
    election.taken_over(at(0), Some(4));
    election.renewed(at(700), false);
    assert_eq!(election.leader(at(701)), Leader::Unknown);
    assert_eq!(election.step(at(701)), Step::Execute(Statement::Read));
}

const SERVERS: usize = 3;
/// Interval of the simulation.
const TICK: u64 = 50;

/// Fate of one statement or of one server, in ticks.
#[derive(Debug, Clone)]
enum Event {
    /// The next statement of a server arrives and answers after these times; the answer may get lost.
    Delay {
        server: usize,
        arrival: u64,
        answer: u64,
        is_lost: bool,
    },
    /// A process stops, or its machine hangs.
    Pause { server: usize, ticks: u64 },
    /// Time passes.
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..SERVERS, 0..80u64, 0..80u64, prop::bool::weighted(0.3)).prop_map(
            |(server, arrival, answer, is_lost)| Event::Delay { server, arrival, answer, is_lost }
        ),
        1 => (0..SERVERS, 1..200u64).prop_map(|(server, ticks)| Event::Pause { server, ticks }),
        4 => (1..40u64).prop_map(Event::Pass),
    ]
}

/// A statement on its way.
struct OnItsWay {
    statement: Statement,
    sent: Time,
    arrival: u64,
    answer: u64,
    is_lost: bool,
    outcome: Option<Outcome>,
}

enum Outcome {
    Row(LeaderRow),
    Epoch(Option<i64>),
    Renewed(bool),
}

struct Simulated {
    id: Uuid,
    election: Election,
    /// Clocks of different machines have nothing to do with each other.
    offset: u64,
    sent: Option<OnItsWay>,
    paused_until: u64,
    delay: (u64, u64, bool),
}

struct Simulation {
    tick: u64,
    row: LeaderRow,
    servers: Vec<Simulated>,
    /// The only leader of each epoch.
    leaders: BTreeMap<i64, Uuid>,
}

impl Simulation {
    fn new() -> Self {
        let servers = (1..=SERVERS as u128).map(|number| Simulated {
            id: server(number),
            election: Election::new(server(number), LEASE),
            offset: u64::try_from(number).unwrap() * 1_000_000,
            sent: None,
            paused_until: 0,
            delay: (0, 0, false),
        });
        Self {
            tick: 0,
            row: row(0, 0, None),
            servers: servers.collect(),
            leaders: BTreeMap::new(),
        }
    }

    fn pass(&mut self) {
        self.tick += 1;
        let mut notified = false;
        for server in &mut self.servers {
            let now = at(server.offset + self.tick * TICK);
            // The database executes what has arrived, whatever its sender does.
            if let Some(sent) = &mut server.sent
                && sent.outcome.is_none()
                && self.tick >= sent.arrival
            {
                let before = self.row.clone();
                sent.outcome = Some(execute(&mut self.row, server.id, &sent.statement));
                notified |= before != self.row;
            }
            if self.tick < server.paused_until {
                continue;
            }
            let answered = server
                .sent
                .take_if(|sent| sent.outcome.is_some() && self.tick >= sent.answer);
            if let Some(answered) = answered
                && !answered.is_lost
            {
                match answered.outcome {
                    Some(Outcome::Row(row)) => server.election.read(now, row),
                    Some(Outcome::Epoch(epoch)) => server.election.taken_over(answered.sent, epoch),
                    Some(Outcome::Renewed(renewed)) => server.election.renewed(answered.sent, renewed),
                    None => {}
                }
            }
            if server.sent.is_none()
                && let Step::Execute(statement) = server.election.step(now)
            {
                let (arrival, answer, is_lost) = std::mem::take(&mut server.delay);
                server.sent = Some(OnItsWay {
                    statement,
                    sent: now,
                    arrival: self.tick + arrival,
                    answer: self.tick + arrival + answer,
                    is_lost,
                    outcome: None,
                });
            }
        }
        if notified {
            self.servers
                .iter_mut()
                .for_each(|server| server.election.notified());
        }
        self.check();
    }

    /// Also of a paused server: it shows what it has shown last when it goes on, unless its clock forbids it.
    fn check(&mut self) {
        let leading: Vec<_> = self
            .servers
            .iter()
            .filter_map(|server| {
                let now = at(server.offset + self.tick * TICK);
                match server.election.leader(now) {
                    Leader::Own { epoch, .. } => Some((epoch, server.id)),
                    _ => None,
                }
            })
            .collect();
        assert!(
            leading.len() <= 1,
            "two leaders at tick {}: {leading:?}",
            self.tick
        );
        for (epoch, id) in leading {
            assert_eq!(
                *self.leaders.entry(epoch).or_insert(id),
                id,
                "an epoch has two leaders"
            );
        }
    }

    fn has_leader(&self) -> bool {
        self.servers.iter().any(|server| {
            let now = at(server.offset + self.tick * TICK);
            self.tick >= server.paused_until && matches!(server.election.leader(now), Leader::Own { .. })
        })
    }
}

fn execute(row: &mut LeaderRow, id: Uuid, statement: &Statement) -> Outcome {
    match statement {
        Statement::Read => Outcome::Row(row.clone()),
        Statement::TakeOver(expected) => {
            let is_same = (row.epoch, row.renewals) == (expected.epoch, expected.renewals);
            Outcome::Epoch(is_same.then(|| {
                *row = LeaderRow {
                    epoch: row.epoch + 1,
                    renewals: 0,
                    holder: Some((id, String::new())),
                    lease_time: LEASE,
                };
                row.epoch
            }))
        }
        Statement::Renew { epoch } => {
            let is_same = row.epoch == *epoch;
            row.renewals += i64::from(is_same);
            Outcome::Renewed(is_same)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn there_is_at_most_one_leader_and_soon_one(events in proptest::collection::vec(event(), 1..60)) {
        let mut simulation = Simulation::new();
        for event in events {
            match event {
                Event::Delay { server, arrival, answer, is_lost } => {
                    simulation.servers[server].delay = (arrival, answer, is_lost);
                }
                Event::Pause { server, ticks } => {
                    simulation.servers[server].paused_until = simulation.tick + ticks;
                }
                Event::Pass(ticks) => (0..ticks).for_each(|_| simulation.pass()),
            }
        }
        // From here on, nothing goes wrong: one server is gone, the others are well.
        simulation.servers[0].paused_until = u64::MAX;
        for server in &mut simulation.servers[1..] {
            server.paused_until = 0;
            server.delay = (0, 0, false);
        }
        let all_answered = 2 * 80;
        (0..all_answered).for_each(|_| simulation.pass());
        let lease_in_ticks = u64::try_from(LEASE.as_millis()).unwrap() / TICK;
        let waited = (0..lease_in_ticks + 10).take_while(|_| {
            simulation.pass();
            !simulation.has_leader()
        });
        let waited = waited.count();
        prop_assert!(simulation.has_leader(), "no leader after {waited} ticks");
    }
}
