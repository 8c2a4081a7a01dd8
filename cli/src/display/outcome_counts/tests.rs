use super::*;

fn count(events: &[(&str, Outcome)]) -> [usize; 4] {
    let mut counts = OutcomeCounts::default();
    for &(name, outcome) in events {
        counts.record(name.to_owned(), outcome);
    }
    [Outcome::Ran, Outcome::Hit, Outcome::CutOff, Outcome::Failed].map(|outcome| counts.count(outcome))
}

#[test]
fn counts_tasks_by_outcome() {
    let events = [
        ("zlib:do_fetch", Outcome::Hit),
        ("zlib:do_unpack", Outcome::Ran),
        ("zlib:do_compile", Outcome::Ran),
        ("png:do_compile", Outcome::CutOff),
    ];
    assert_eq!(count(&events), [2, 1, 1, 0]);
}

#[test]
fn counts_a_result_once_that_was_lost_and_found_again() {
    let events = [("zlib:do_unpack", Outcome::Hit), ("zlib:do_unpack", Outcome::Hit)];
    assert_eq!(count(&events), [0, 1, 0, 0]);
}

#[test]
fn counts_the_last_outcome_of_a_task() {
    let events = [("zlib:do_unpack", Outcome::Hit), ("zlib:do_unpack", Outcome::Ran)];
    assert_eq!(count(&events), [1, 0, 0, 0]);
}

#[test]
fn counts_a_recipe_once_per_multiconfig() {
    let events = [
        ("zlib:do_unpack", Outcome::Ran),
        ("mc:other:zlib:do_unpack", Outcome::Ran),
    ];
    assert_eq!(count(&events), [2, 0, 0, 0]);
}
