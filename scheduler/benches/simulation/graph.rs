//! Task graph and durations of the simulation.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

/// Exported graph of core-image-minimal. Each line has a recipe, a task, `noexec` or `-`, and the numbers of the lines that
/// it depends on, which come before.
const GRAPH: &str = include_str!("core-image-minimal.txt");
const DURATIONS: &str = include_str!("durations.txt");

/// Tasks of at least this length depend on the size of the recipe.
const LONG_TASK: Duration = Duration::from_secs(8);

/// Number of heads and tails that the lower bound compares.
const BOUND_POINTS: u32 = 100;

pub(crate) struct Task {
    pub(crate) recipe: &'static str,
    pub(crate) name: &'static str,
    pub(crate) duration: Duration,
    pub(crate) dependencies: Vec<usize>,
    pub(crate) dependents: Vec<usize>,
    /// Its own time and that of the longest chain above it.
    pub(crate) remaining_path: Duration,
    /// Time of the longest chain below it: it cannot start before.
    earliest_start: Duration,
}

pub(crate) struct Graph {
    pub(crate) tasks: Vec<Task>,
}

impl Task {
    /// Part of its time that no schedule has before `head`, nor after the point that lies `tail` before the end.
    fn between(&self, head: Duration, tail: Duration) -> Duration {
        let after = self.remaining_path.saturating_sub(self.duration);
        let before_head = head.saturating_sub(self.earliest_start);
        let after_tail = tail.saturating_sub(after);
        self.duration.saturating_sub(before_head + after_tail)
    }
}

impl Graph {
    pub(crate) fn read() -> Self {
        let seconds = durations();
        let mut tasks: Vec<Task> = GRAPH
            .lines()
            .map(|line| {
                let mut words = line.split_ascii_whitespace();
                let mut word = || words.next().expect("recipe, task and kind");
                let (recipe, name, is_noexec) = (word(), word(), word() == "noexec");
                let usual = seconds.get(name).unwrap_or(&seconds["*"]);
                Task {
                    recipe,
                    name,
                    duration: if is_noexec {
                        Duration::ZERO
                    } else {
                        spread(recipe, name, *usual)
                    },
                    dependencies: words.map(|number| number.parse().expect("a number")).collect(),
                    dependents: vec![],
                    remaining_path: Duration::ZERO,
                    earliest_start: Duration::ZERO,
                }
            })
            .collect();
        for task in 0..tasks.len() {
            for dependency in tasks[task].dependencies.clone() {
                assert!(dependency < task, "dependencies come before");
                tasks[dependency].dependents.push(task);
                let end = tasks[dependency].earliest_start + tasks[dependency].duration;
                tasks[task].earliest_start = tasks[task].earliest_start.max(end);
            }
        }
        for task in (0..tasks.len()).rev() {
            let above = tasks[task].dependents.iter();
            let above = above.map(|dependent| tasks[*dependent].remaining_path).max();
            tasks[task].remaining_path = tasks[task].duration + above.unwrap_or_default();
        }
        Self { tasks }
    }

    pub(crate) fn work(&self) -> Duration {
        self.tasks.iter().map(|task| task.duration).sum()
    }

    /// Time that no schedule of equal builds goes below: the slots have nothing to do at the beginning and at the end, where
    /// the chains leave few tasks. Whatever starts `head` after the beginning or later, and is followed by `tail` or more, has
    /// to be done between them. At its best choice of both, this is never less than work / slots and the critical path.
    pub(crate) fn lower_bound(&self, builds: u32, slots: u32) -> Duration {
        let path = self.critical_path();
        let points = (0..=BOUND_POINTS).map(|point| path * point / BOUND_POINTS);
        let heads: Vec<_> = points.collect();
        let of_head = |head: &Duration| {
            let tails = heads.iter().map(|tail| {
                let between: Duration = self.tasks.iter().map(|task| task.between(*head, *tail)).sum();
                if between.is_zero() {
                    // Nothing tells that the two do not overlap.
                    return Duration::ZERO;
                }
                *head + *tail + between * builds / slots
            });
            tails.max().unwrap_or_default()
        };
        heads.iter().map(of_head).max().unwrap_or_default().max(path)
    }

    pub(crate) fn critical_path(&self) -> Duration {
        let paths = self.tasks.iter().map(|task| task.remaining_path);
        paths.max().unwrap_or_default()
    }
}

fn durations() -> HashMap<&'static str, Duration> {
    let lines = DURATIONS.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, seconds) = line.split_once(' ').expect("a name and seconds");
            (name, Duration::from_secs(seconds.parse().expect("seconds")))
        })
        .collect()
}

/// Spreads the time of a task: by a tenth, and for a long task by the size of the recipe too.
fn spread(recipe: &str, name: &str, usual: Duration) -> Duration {
    let exponent = |text: &[&str], most: f64| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let part = f64::from(u32::try_from(hasher.finish() % 10_000).unwrap_or(0)) / 10_000.0;
        (2.0 * part - 1.0) * most
    };
    let size = if usual >= LONG_TASK {
        exponent(&[recipe], 3.0)
    } else {
        0.0
    };
    usual.mul_f64((size + exponent(&[recipe, name], 0.14)).exp2())
}
