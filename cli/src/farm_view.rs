//! State of a farm, as text for people and as JSON for programs.

use std::fmt::{self, Display, Write as _};
use std::time::{Duration, SystemTime};

use bitzel_proto::farm::{GetFarmResponse, RunningAction, WaitingGroup, Worker};
use bitzel_proto::reapi::Platform;
use serde_json::{Value, json};

use crate::build_list::{self, build_line};
use crate::visible_text::visible;

/// State of a farm as text: workers with what they run, then builds and what waits.
pub(crate) struct FarmView<'a>(pub(crate) &'a GetFarmResponse);

impl Display for FarmView<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = &self.0.workers;
        let slots: u64 = workers.iter().map(|worker| u64::from(worker.slots)).sum();
        let used: usize = workers.iter().map(|worker| worker.running.len()).sum();
        writeln!(
            formatter,
            "{}, {used} of {} in use, {} waiting",
            count(workers.len() as u64, "worker"),
            count(slots, "slot"),
            count(self.0.waiting_actions, "Action"),
        )?;
        for worker in workers {
            writeln!(formatter, "{}", worker_line(worker))?;
            for running in &worker.running {
                let time = elapsed(running.running_milliseconds);
                writeln!(formatter, "  {time:>8}  {}", running_text(running))?;
            }
        }
        if !self.0.builds.is_empty() {
            writeln!(formatter, "\nbuilds:")?;
        }
        for build in &self.0.builds {
            writeln!(formatter, "  {}", build_line(build, SystemTime::now()))?;
        }
        if !self.0.waiting.is_empty() {
            writeln!(formatter, "\nwaiting:")?;
        }
        for group in &self.0.waiting {
            writeln!(formatter, "{}", waiting_line(group))?;
        }
        Ok(())
    }
}

fn worker_line(worker: &Worker) -> String {
    let mut line = visible(&worker.name).into_owned();
    if !worker.pool.is_empty() {
        let _ = write!(line, " ({})", visible(&worker.pool));
    }
    let _ = write!(
        line,
        ": {} of {}",
        worker.running.len(),
        count(worker.slots.into(), "slot")
    );
    if worker.draining {
        line.push_str(", draining");
    }
    if worker.paused_milliseconds > 0 {
        let time = elapsed(worker.paused_milliseconds);
        let _ = write!(line, ", paused for {time}: it handed Actions back");
    }
    line
}

/// The task, or what else is known of the Action.
fn running_text(running: &RunningAction) -> String {
    if running.cancelled {
        return "(cancelled)".to_owned();
    }
    let Some(digest) = &running.action_digest else {
        return "(of another instance)".to_owned();
    };
    let mut text = if running.target.is_empty() {
        format!("Action {}", digest.hash)
    } else {
        running.target.clone()
    };
    if !running.mnemonic.is_empty() {
        let _ = write!(text, " [{}]", running.mnemonic);
    }
    let _ = write!(text, ", {}", running.user);
    if !running.instance_name.is_empty() {
        let _ = write!(text, " on {}", running.instance_name);
    }
    visible(&text).into_owned()
}

fn waiting_line(group: &WaitingGroup) -> String {
    let user = match group.user.as_str() {
        "" => "others",
        user => user,
    };
    let needs = match (&group.requirements, group.unserved) {
        (None, false) => String::new(),
        (None, true) => "; no worker can run them".to_owned(),
        (requirements, false) => format!("; need {}", properties(requirements.as_ref())),
        (requirements, true) => format!("; no worker offers {}", properties(requirements.as_ref())),
    };
    let text = format!(
        "  {:>8}  {} of {user}{needs}",
        elapsed(group.waited_milliseconds),
        count(group.actions, "Action"),
    );
    visible(&text).into_owned()
}

fn properties(platform: Option<&Platform>) -> String {
    let properties = platform.map(|platform| platform.properties.as_slice());
    let texts = properties.unwrap_or_default().iter();
    let texts: Vec<_> = texts
        .map(|property| format!("{}={}", property.name, property.value))
        .collect();
    if texts.is_empty() {
        return "no properties".to_owned();
    }
    texts.join(", ")
}

fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Time in whole seconds.
fn elapsed(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string()
}

/// State of a farm as JSON.
pub(crate) fn to_json(farm: &GetFarmResponse) -> Value {
    let platform = |platform: Option<&Platform>| -> Vec<Value> {
        let properties = platform.map(|platform| platform.properties.as_slice());
        let properties = properties.unwrap_or_default().iter();
        properties
            .map(|property| json!({"name": property.name, "value": property.value}))
            .collect()
    };
    let running = |action: &RunningAction| {
        json!({
            "instance_name": action.instance_name,
            "action_digest": action.action_digest.as_ref().map(|digest| json!({
                "hash": digest.hash,
                "size_bytes": digest.size_bytes,
            })),
            "user": action.user,
            "target": action.target,
            "mnemonic": action.mnemonic,
            "running_milliseconds": action.running_milliseconds,
            "cancelled": action.cancelled,
        })
    };
    let worker = |worker: &Worker| {
        json!({
            "name": worker.name,
            "pool": worker.pool,
            "slots": worker.slots,
            "draining": worker.draining,
            "paused_milliseconds": worker.paused_milliseconds,
            "platform": platform(worker.platform.as_ref()),
            "running": worker.running.iter().map(running).collect::<Vec<_>>(),
        })
    };
    let group = |group: &WaitingGroup| {
        json!({
            "user": group.user,
            "requirements": platform(group.requirements.as_ref()),
            "actions": group.actions,
            "waited_milliseconds": group.waited_milliseconds,
            "unserved": group.unserved,
        })
    };
    json!({
        "workers": farm.workers.iter().map(worker).collect::<Vec<_>>(),
        "waiting": farm.waiting.iter().map(group).collect::<Vec<_>>(),
        "waiting_actions": farm.waiting_actions,
        "builds": farm.builds.iter().map(build_list::to_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
