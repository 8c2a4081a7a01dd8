//! Failed tasks, as one message for all tasks that a server failed for the same reason.

use tonic::Code;

/// Tasks named in one message.
const MAX_NAMED_TASKS: usize = 4;

/// Tasks that failed because of the answer of a server, until they are shown.
#[derive(Debug, Default)]
pub(super) struct RemoteFailures {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    code: Code,
    /// Error of the first task.
    error: String,
    tasks: Vec<String>,
}

impl RemoteFailures {
    /// Adds a task that failed with `code`.
    pub(super) fn add(&mut self, task: String, code: Code, error: String) {
        match self.groups.iter_mut().find(|group| group.code == code) {
            Some(group) => group.tasks.push(task),
            None => self.groups.push(Group {
                code,
                error,
                tasks: vec![task],
            }),
        }
    }

    /// Takes the messages for all tasks added so far, with the status code of each.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Code, String)> {
        std::mem::take(&mut self.groups)
            .into_iter()
            .map(|group| (group.code, group.text()))
    }
}

impl Group {
    fn text(&self) -> String {
        let error = &self.error;
        match &self.tasks[..] {
            [task] => format!("{task} FAILED: {error}"),
            tasks => {
                let named = tasks[..tasks.len().min(MAX_NAMED_TASKS)].join(", ");
                let others = match tasks.len().saturating_sub(MAX_NAMED_TASKS) {
                    0 => String::new(),
                    others => format!(" and {others} more"),
                };
                format!("{} tasks FAILED ({named}{others}): {error}", tasks.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_few_tasks_and_counts_the_rest() {
        let mut failures = RemoteFailures::default();
        for number in 0..6 {
            failures.add(
                format!("r{number}:do_compile"),
                Code::Unavailable,
                "no server".to_owned(),
            );
        }
        failures.add(
            "zlib:do_fetch".to_owned(),
            Code::PermissionDenied,
            "not for you".to_owned(),
        );
        let texts: Vec<String> = failures.take().map(|(_, text)| text).collect();
        assert_eq!(
            texts,
            [
                "6 tasks FAILED (r0:do_compile, r1:do_compile, r2:do_compile, r3:do_compile and 2 more): no server",
                "zlib:do_fetch FAILED: not for you",
            ]
        );
        assert_eq!(failures.take().count(), 0);
    }
}
