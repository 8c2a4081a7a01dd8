//! Builds of a simulated day.

/// Seconds of a day.
pub(super) const DAY: u64 = 86_400;
/// Builds that begin in each hour, on average.
const BUILDS_PER_HOUR: [u64; 24] = [
    1, 1, 1, 1, 1, 1, 2, 4, 8, 12, 13, 12, 6, 10, 13, 13, 11, 8, 4, 2, 2, 1, 1, 1,
];
/// Hour in which the nightly build begins.
const NIGHTLY_HOUR: u64 = 22;

/// Numbers that are the same in each run (splitmix64).
#[derive(Debug)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (number ^ (number >> 31)) % limit
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Seconds that an Action takes: most are short, and few take most of an hour.
    fn duration(&mut self) -> u64 {
        match self.below(100) {
            0..70 => self.between(5, 30),
            70..95 => self.between(60, 300),
            _ => self.between(600, 2400),
        }
    }
}

/// A build: stages of Actions. A stage begins when all Actions of the one before have ended.
#[derive(Debug)]
pub(super) struct Build {
    /// Second of the day in which it begins.
    pub(super) begins: u64,
    /// Durations of the Actions of each stage, the last stage first.
    pub(super) stages: Vec<Vec<u64>>,
}

/// All builds of a day, in the order in which they begin.
pub(super) fn builds(numbers: &mut Numbers) -> Vec<Build> {
    let mut builds = vec![];
    for second in 0..DAY {
        let hour = usize::try_from(second / 3600).unwrap();
        if numbers.below(3600) < BUILDS_PER_HOUR[hour] {
            builds.push(build(numbers, second, 10, 24));
        }
        if second == NIGHTLY_HOUR * 3600 {
            builds.push(build(numbers, second, 12, 160));
        }
    }
    builds
}

fn build(numbers: &mut Numbers, begins: u64, stages: u64, width: u64) -> Build {
    let stages = (0..stages).map(|_| {
        let actions = numbers.between(2, width);
        (0..actions).map(|_| numbers.duration()).collect()
    });
    Build {
        begins,
        stages: stages.collect(),
    }
}
