//! A simulated day of a farm on Kubernetes: builds come and go, the external scaler says how many workers there should be,
//! a `ReplicaSet` starts and deletes pods, and deletion costs say which ones. The queue, the scaler's numbers and the costs
//! are the real ones; time, pods and Actions are simulated, second by second.
//!
//! `BLESS=1 cargo test -p bitzel-scheduler simulated_day` draws `docs/autoscaling.svg`.

mod chart;
mod farm;
mod load;
mod replica_set;

use std::path::Path;

use farm::{Day, Farm, Settings};

/// Drain time of the chart (`workers.drainSeconds`). No Action of the load takes longer.
const DRAIN_SECONDS: u64 = 3600;

fn simulate(settings: Settings) -> Day {
    Farm::new(settings).run()
}

fn marked() -> Settings {
    Settings {
        marks: true,
        drain_seconds: DRAIN_SECONDS,
    }
}

#[test]
fn a_day_of_scaling_kills_no_action() {
    let day = simulate(marked());
    assert_eq!(day.killed, 0);
    assert_eq!(day.unfinished, 0, "all builds of the day have ended");
    assert!(
        day.scaled_down > 50,
        "workers were taken away: {}",
        day.scaled_down
    );
    let least = day.minutes.iter().map(|minute| minute.workers).min();
    let most = day.minutes.iter().map(|minute| minute.workers).max();
    assert!(
        least <= Some(3) && most >= Some(20),
        "{least:?} to {most:?} workers"
    );
    // Pods take about a minute to start, and the largest builds come at once.
    let waited = day.waited(0.95);
    assert!(waited < 240, "{waited} s");

    let unmarked = simulate(Settings {
        marks: false,
        ..marked()
    });
    assert_eq!(unmarked.killed, 0, "marks are not what keeps Actions alive");
    assert!(
        day.busy_scaled_down < unmarked.busy_scaled_down,
        "{} and {} busy workers were taken away",
        day.busy_scaled_down,
        unmarked.busy_scaled_down
    );
    assert!(
        day.lost_slot_seconds() < unmarked.lost_slot_seconds(),
        "{} and {} slot seconds were lost in workers that drain",
        day.lost_slot_seconds(),
        unmarked.lost_slot_seconds()
    );
    let writes_per_worker = day.marks / u64::try_from(day.started).unwrap();
    assert!(writes_per_worker < 20, "{} marks", day.marks);

    let drawn = chart::draw(&day, &unmarked);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/autoscaling.svg");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &drawn).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == drawn,
        "docs/autoscaling.svg is old; BLESS=1 draws it"
    );
}

/// Otherwise the day above could not find a killed Action.
#[test]
fn a_short_drain_time_kills_actions() {
    let day = simulate(Settings {
        marks: false,
        drain_seconds: 300,
    });
    assert!(day.killed > 0);
}
