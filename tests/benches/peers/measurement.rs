//! Measurements and their output as JSON.

use std::fmt;
use std::time::Duration;

/// One measured value.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// Name of the measurement; values with equal names can be compared.
    pub(crate) name: &'static str,
    /// The value.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
}

impl Measurement {
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit }
    }

    /// Count per second.
    pub(crate) fn rate(name: &'static str, count: f64, elapsed: Duration, unit: &'static str) -> Self {
        Self::new(name, count / elapsed.as_secs_f64(), unit)
    }

    /// A quantile of durations, in milliseconds.
    pub(crate) fn quantile(name: &'static str, durations: &[Duration], quantile: f64) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of the slice"
        )]
        let index = ((sorted.len() - 1) as f64 * quantile).ceil() as usize;
        Self::new(name, sorted[index].as_secs_f64() * 1e3, "ms")
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:.2} {}", self.name, self.value, self.unit)
    }
}

/// Prints our values with those of `reference`, if it has them.
pub(crate) fn report(ours: &[Measurement], reference: &str, theirs: &[Measurement]) {
    for their in theirs {
        if let Some(our) = ours.iter().find(|our| our.name == their.name) {
            print(our, Some((reference, their.value)));
        }
    }
}

/// Prints all our values without a reference. Some of them no reference has.
pub(crate) fn report_alone(ours: &[Measurement]) {
    for our in ours {
        print(our, None);
    }
}

fn print(our: &Measurement, reference: Option<(&str, f64)>) {
    let line = serde_json::json!({
        "name": our.name, "value": our.value, "unit": our.unit,
        "reference": reference.map(|(name, _)| name),
        "reference_value": reference.map(|(_, value)| value),
        "ratio": reference.map(|(_, value)| our.value / value),
    });
    println!("{line}");
}
