use std::collections::HashMap;

use bitzel_proto::graph::TaskGraph;
use proptest::prelude::*;

use super::*;
use crate::plan::task_index::tests::graph;

/// Gives every task the hashes that BitBake would export.
fn sign(mut graph: TaskGraph, order: &[u32]) -> Arc<TaskIndex> {
    for task in order {
        let hash = taskhash(&graph.tasks[*task as usize], |dependency| {
            &graph.tasks[dependency as usize].taskhash
        });
        let task = &mut graph.tasks[*task as usize];
        task.unihash.clone_from(&hash);
        task.taskhash = hash;
    }
    Arc::new(TaskIndex::new(graph).unwrap())
}

fn in_order(graph: TaskGraph) -> Arc<TaskIndex> {
    let order: Vec<u32> = (0..u32::try_from(graph.tasks.len()).unwrap()).collect();
    sign(graph, &order)
}

/// An action cache as a map from signature to unihash, and tasks whose outputs are a function of their name alone.
#[derive(Default)]
struct World {
    entries: HashMap<String, String>,
    first_with_outputs: HashMap<(String, String), String>,
    fails: BTreeSet<u32>,
    /// Tasks whose results are lost: the execution of the next task that needs one of them fails.
    lost: BTreeSet<u32>,
}

impl World {
    /// Runs a build to its end. Returns the executed tasks, in order, and the number of look-ups.
    fn build(
        &mut self,
        index: &Arc<TaskIndex>,
        keep_going: bool,
        outputs: &dyn Fn(u32) -> String,
    ) -> (Schedule, Vec<u32>, usize) {
        let mut schedule = Schedule::new(Arc::clone(index), keep_going);
        let (mut executed, mut look_ups) = (Vec::new(), 0);
        while let Some(step) = schedule.next_step(true) {
            match step {
                Step::LookUp { task, taskhash } => {
                    look_ups += 1;
                    match self.entries.get(&taskhash) {
                        Some(unihash) => schedule.found(task, unihash.clone()),
                        None => schedule.not_found(task),
                    }
                }
                Step::Restore { .. } => unreachable!("no archive was found"),
                Step::Execute { task, .. } if self.fails.contains(&task) => schedule.failed(task),
                Step::Execute { task, taskhash } => {
                    let required = index.inputs(task).required();
                    for needed in &required {
                        assert!(
                            schedule.completion(*needed).is_some(),
                            "{task} runs before {needed}"
                        );
                    }
                    let lost: Vec<u32> = required
                        .into_iter()
                        .filter(|needed| self.lost.contains(needed))
                        .collect();
                    if !lost.is_empty() {
                        for needed in lost {
                            // The action cache checks that results are complete: this one is no longer a hit.
                            self.lost.remove(&needed);
                            self.entries.remove(&schedule.taskhash(needed));
                        }
                        schedule.inputs_lost(task);
                        continue;
                    }
                    executed.push(task);
                    let key = (index.task_id(task), outputs(task));
                    let unihash = self
                        .first_with_outputs
                        .entry(key)
                        .or_insert_with(|| taskhash.clone())
                        .clone();
                    if !always_runs(index.task(task)) {
                        self.entries.insert(taskhash, unihash.clone());
                    }
                    schedule.executed(task, unihash);
                }
            }
        }
        (schedule, executed, look_ups)
    }
}

fn same(task: u32) -> String {
    format!("outputs of {task}")
}

fn chain() -> TaskGraph {
    let mut graph = graph(&[
        ("low", "do_compile", &[]),
        ("low", "do_install", &[0]),
        ("middle", "do_compile", &[1]),
        ("middle", "do_install", &[2]),
        ("top", "do_build!", &[3]),
    ]);
    graph.targets = vec![4];
    graph
}

/// A world in which the chain was built, and the chain after an edit of one task.
fn built_and_edited(task: usize) -> (World, Arc<TaskIndex>) {
    let mut world = World::default();
    world.build(&in_order(chain()), false, &same);
    let mut graph = chain();
    graph.tasks[task].basehash = "edited".to_owned();
    (world, in_order(graph))
}

#[test]
fn a_cold_build_runs_each_task_once_and_the_next_build_none() {
    let index = in_order(chain());
    let mut world = World::default();
    let (_, executed, _) = world.build(&index, false, &same);
    assert_eq!(executed, [0, 1, 2, 3]);
    let (schedule, executed, look_ups) = world.build(&index, false, &same);
    assert_eq!((executed, look_ups), (vec![], 1));
    assert_eq!(schedule.completion(3), Some(Completion::SignatureHit));
    assert_eq!(schedule.completion(4), Some(Completion::NoExec));
    assert_eq!(schedule.completion(0), None);
}

#[test]
fn equal_outputs_cut_off_early() {
    let (mut world, changed) = built_and_edited(0);
    let (schedule, executed, _) = world.build(&changed, false, &same);
    assert_eq!(executed, [0]);
    assert_eq!(schedule.completion(1), Some(Completion::EarlyCutOff));
    assert_eq!(schedule.completion(3), Some(Completion::EarlyCutOff));
}

#[test]
fn different_outputs_run_all_above() {
    let (mut world, changed) = built_and_edited(0);
    let (_, executed, _) = world.build(&changed, false, &|task| {
        if task == 0 { "new".to_owned() } else { same(task) }
    });
    // The tasks above run until outputs are equal: those of do_install are, so the other recipe does not run.
    assert_eq!(executed, [0, 1]);
}

#[test]
fn nostamp_runs_every_time_and_does_not_drag_others_along() {
    let mut graph = chain();
    graph.tasks[0].nostamp = true;
    graph.tasks[0].taint = "nostamp:1".to_owned();
    let index = in_order(graph);
    let mut world = World::default();
    world.build(&index, false, &same);
    let (_, executed, _) = world.build(&index, false, &same);
    assert_eq!(executed, [0]);
}

#[test]
fn a_failure_stops_the_build_and_skips_what_needs_it() {
    let mut graph = graph(&[
        ("a", "do_x", &[]),
        ("b", "do_x", &[0]),
        ("c", "do_x", &[]),
        ("top", "do_build!", &[1, 2]),
    ]);
    graph.targets = vec![3];
    let index = in_order(graph);
    let fails = BTreeSet::from([0]);
    let mut world = World {
        fails,
        ..World::default()
    };
    let (schedule, executed, _) = world.build(&index, true, &same);
    assert_eq!(executed, [2]);
    assert_eq!(schedule.skipped().collect::<Vec<_>>(), [1, 3]);
    world.entries.clear();
    let (_, executed, _) = world.build(&index, false, &same);
    assert!(
        executed.len() <= 1,
        "without keep_going at most what ran before the failure"
    );
    world.fails.clear();
    let (_, executed, _) = world.build(&index, false, &same);
    assert!(executed.contains(&0) && executed.contains(&1));
}

#[test]
fn what_the_store_lost_is_made_again_and_the_build_goes_on() {
    let (mut world, changed) = built_and_edited(3);
    world.lost = BTreeSet::from([2]);
    let (schedule, executed, _) = world.build(&changed, false, &same);
    assert_eq!(executed, [2, 3]);
    assert_eq!(schedule.completion(2), Some(Completion::Ran));
    assert_eq!(schedule.completion(3), Some(Completion::Ran));
    assert_eq!(schedule.completion(1), Some(Completion::SignatureHit));
    let (done, wanted) = schedule.progress();
    assert_eq!(done, wanted);
}

/// Random graphs: each task depends on some earlier ones, three recipes, some tasks do nothing or always run.
fn random_graph() -> impl Strategy<Value = TaskGraph> {
    let task = (
        0..3usize,
        proptest::collection::btree_set(0..40u32, 0..4),
        0..10u8,
    );
    proptest::collection::vec(task, 1..25).prop_map(|tasks| {
        let mut result = TaskGraph::default();
        let names = ["a", "b", "c"];
        let rows: Vec<(&str, String, Vec<u32>)> = (0..)
            .zip(&tasks)
            .map(|(number, (recipe, dependencies, kind))| {
                let earlier = dependencies
                    .iter()
                    .copied()
                    .filter(|dependency| *dependency < number)
                    .collect();
                (
                    names[*recipe],
                    format!("do_{number}{}", if *kind == 0 { "!" } else { "" }),
                    earlier,
                )
            })
            .collect();
        let rows: Vec<(&str, &str, &[u32])> = rows
            .iter()
            .map(|(recipe, name, dependencies)| (*recipe, name.as_str(), dependencies.as_slice()))
            .collect();
        let built = graph(&rows);
        result.recipes = built.recipes;
        result.tasks = built.tasks;
        for (task, (_, _, kind)) in result.tasks.iter_mut().zip(&tasks) {
            task.nostamp = *kind == 1 && !task.noexec;
        }
        result.targets = vec![u32::try_from(result.tasks.len()).unwrap() - 1];
        result
    })
}

proptest! {
    /// For any graph and any change: the build ends, no task runs twice, the second build runs only the tasks that always
    /// run, and a change without effect runs at most the changed task in addition.
    #[test]
    fn builds_end_and_repeat(graph in random_graph(), changed in 0..25usize) {
        let index = in_order(graph.clone());
        let always: BTreeSet<u32> = (0..).zip(&graph.tasks).filter(|(_, task)| always_runs(task)).map(|(task, _)| task).collect();
        let mut world = World::default();
        let (first, executed, _) = world.build(&index, false, &same);
        let once: BTreeSet<u32> = executed.iter().copied().collect();
        prop_assert_eq!(once.len(), executed.len());
        prop_assert!(first.completion(graph.targets[0]).is_some());
        let (_, again, _) = world.build(&index, false, &same);
        prop_assert!(again.iter().all(|task| always.contains(task)), "{again:?}");
        let mut edited = graph;
        let changed = changed % edited.tasks.len();
        // Whatever the store loses in between, the build after it ends well too.
        world.lost = (0..).take(edited.tasks.len()).filter(|task| task % 3 == 0).collect();
        let (mended, _, _) = world.build(&in_order(edited.clone()), false, &same);
        prop_assert_eq!(mended.progress().0, mended.progress().1);
        world.lost.clear();
        if !edited.tasks[changed].noexec {
            edited.tasks[changed].basehash.push_str("edited");
            let (_, after, _) = world.build(&in_order(edited), false, &same);
            let allowed = |task: &u32| always.contains(task) || *task as usize == changed;
            prop_assert!(after.iter().all(allowed), "{after:?}");
        }
    }
}

#[test]
fn lost_outputs_are_built_again_whatever_is_found() {
    let index = in_order(chain());
    let mut world = World::default();
    world.build(&index, false, &same);
    let mut schedule = Schedule::new(Arc::clone(&index), false);
    // Task 3 is found; its outputs turn out to be lost, and so are those of task 2, which it needs.
    let (mut executed, mut lost_inputs) = (vec![], BTreeSet::from([2]));
    let mut lost_outputs = true;
    loop {
        while let Some(step) = schedule.next_step(true) {
            match step {
                Step::LookUp { task, taskhash } => schedule.found(task, world.entries[&taskhash].clone()),
                Step::Restore { .. } => unreachable!("no archive was found"),
                Step::Execute { task, taskhash } => {
                    assert!(schedule.is_forced(task));
                    executed.push(task);
                    schedule.executed(task, taskhash);
                }
            }
        }
        if std::mem::take(&mut lost_outputs) {
            schedule.outputs_lost(3);
        } else if lost_inputs.remove(&2) {
            schedule.outputs_lost(2);
        } else {
            break;
        }
    }
    assert_eq!(executed, [3, 2]);
    assert_eq!(schedule.completion(3), Some(Completion::Ran));
    assert!(!schedule.is_forced(3));
    let (done, wanted) = schedule.progress();
    assert_eq!(done, wanted);
}

/// A recipe whose last but one task is restored under fakeroot, by a program of another recipe.
fn packaged() -> Arc<TaskIndex> {
    let mut graph = graph(&[
        ("pseudo", "do_populate_sysroot", &[]),
        ("zlib", "do_patch", &[]),
        ("zlib", "do_install", &[1]),
        ("zlib", "do_package", &[0, 2]),
        ("zlib", "do_create_spdx", &[1, 3]),
    ]);
    graph.tasks[3].setscene_dependencies = vec![0];
    graph.targets = vec![4];
    in_order(graph)
}

/// Runs a schedule to its end. `archives` have an archive, of which `broken` cannot be used. Returns the steps.
fn steps_with_archives(index: &Arc<TaskIndex>, archives: &[u32], broken: &[u32]) -> (Schedule, Vec<String>) {
    let mut schedule = Schedule::new(Arc::clone(index), false);
    let mut steps = Vec::new();
    while let Some(step) = schedule.next_step(true) {
        match step {
            Step::LookUp { task, taskhash } if archives.contains(&task) => {
                schedule.archive_found(task, taskhash);
            }
            Step::LookUp { task, .. } => schedule.not_found(task),
            Step::Restore { task, .. } if broken.contains(&task) => {
                steps.push(format!("broken {task}"));
                schedule.not_restored(task);
            }
            Step::Restore { task, taskhash } => {
                assert!(
                    schedule
                        .inputs(task)
                        .required()
                        .iter()
                        .all(|needed| { schedule.completion(*needed).is_some() })
                );
                steps.push(format!("restore {task}"));
                schedule.restored(task, taskhash);
            }
            Step::Execute { task, taskhash } => {
                assert!(
                    schedule
                        .inputs(task)
                        .required()
                        .iter()
                        .all(|needed| { schedule.completion(*needed).is_some() })
                );
                steps.push(format!("run {task}"));
                schedule.executed(task, taskhash);
            }
        }
    }
    (schedule, steps)
}

#[test]
fn an_archive_replaces_the_tasks_below_it() {
    let index = packaged();
    let (schedule, mut steps) = steps_with_archives(&index, &[0, 3], &[]);
    steps.sort();
    // The last task names do_patch, so it has to run; do_install does not.
    assert_eq!(steps, ["restore 0", "restore 3", "run 1", "run 4"]);
    assert_eq!(schedule.completion(3), Some(Completion::Restored));
    assert_eq!(schedule.inputs(4).own.primary, Some(1));
    assert_eq!(schedule.inputs(4).own.replay, [3]);
}

#[test]
fn an_archive_waits_for_what_its_setscene_task_needs() {
    let (_, steps) = steps_with_archives(&packaged(), &[3], &[]);
    let position = |step: &str| steps.iter().position(|other| other == step);
    assert!(
        position("run 0").is_some() && position("run 0") < position("restore 3"),
        "{steps:?}"
    );
}

#[test]
fn a_task_with_an_unusable_archive_runs() {
    let (schedule, steps) = steps_with_archives(&packaged(), &[0, 3], &[3]);
    assert!(steps.contains(&"broken 3".to_owned()), "{steps:?}");
    assert!(steps.contains(&"run 2".to_owned()), "{steps:?}");
    assert_eq!(schedule.completion(3), Some(Completion::Ran));
}
