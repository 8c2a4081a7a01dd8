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

pub(crate) struct Task {
    pub(crate) recipe: &'static str,
    pub(crate) name: &'static str,
    pub(crate) duration: Duration,
    pub(crate) dependencies: Vec<usize>,
    pub(crate) dependents: Vec<usize>,
    /// Its own time and that of the longest chain above it.
    pub(crate) remaining_path: Duration,
}

pub(crate) struct Graph {
    pub(crate) tasks: Vec<Task>,
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
                }
            })
            .collect();
        for task in 0..tasks.len() {
            for dependency in tasks[task].dependencies.clone() {
                assert!(dependency < task, "dependencies come before");
                tasks[dependency].dependents.push(task);
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
