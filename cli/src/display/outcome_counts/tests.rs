use super::*;

fn counts(events: &[(&str, Outcome)]) -> [usize; 4] {
    let mut tally = Tally::default();
    for &(name, outcome) in events {
        tally.record(name.to_owned(), outcome);
    }
    [Outcome::Ran, Outcome::Hit, Outcome::CutOff, Outcome::Failed].map(|outcome| tally.count(outcome))
}

#[test]
fn tasks_are_counted_by_outcome() {
    let events = [
        ("zlib:do_fetch", Outcome::Hit),
        ("zlib:do_unpack", Outcome::Ran),
        ("zlib:do_compile", Outcome::Ran),
        ("png:do_compile", Outcome::CutOff),
    ];
    assert_eq!(counts(&events), [2, 1, 1, 0]);
}

#[test]
fn a_result_that_is_found_again_after_a_loss_counts_once() {
    let events = [("zlib:do_unpack", Outcome::Hit), ("zlib:do_unpack", Outcome::Hit)];
    assert_eq!(counts(&events), [0, 1, 0, 0]);
}

#[test]
fn a_result_that_is_made_again_after_a_loss_counts_as_what_happened_last() {
    let events = [("zlib:do_unpack", Outcome::Hit), ("zlib:do_unpack", Outcome::Ran)];
    assert_eq!(counts(&events), [1, 0, 0, 0]);
}

#[test]
fn the_same_recipe_in_two_configurations_counts_twice() {
    let events = [
        ("zlib:do_unpack", Outcome::Ran),
        ("mc:other:zlib:do_unpack", Outcome::Ran),
    ];
    assert_eq!(counts(&events), [2, 0, 0, 0]);
}
