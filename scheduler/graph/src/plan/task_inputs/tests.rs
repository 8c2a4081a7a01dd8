use super::super::task_index::tests::graph;
use super::*;

#[test]
fn one_chain_needs_only_its_last_task() {
    let index = TaskIndex::new(graph(&[
        ("zlib", "do_fetch", &[]),
        ("zlib", "do_unpack", &[0]),
        ("zlib", "do_compile", &[1]),
        ("zlib", "do_install", &[2]),
    ]))
    .unwrap();
    let inputs = index.inputs(3);
    assert_eq!((inputs.own.primary, inputs.own.replay), (Some(2), vec![]));
    assert_eq!(index.inputs(0), TaskInputs::default());
}

#[test]
fn a_parallel_chain_is_replayed_on_the_longer_one() {
    let index = TaskIndex::new(graph(&[
        ("zlib", "do_fetch", &[]),
        ("zlib", "do_unpack", &[0]),
        ("zlib", "do_patch", &[1]),
        ("zlib", "do_prepare_recipe_sysroot", &[0]),
        ("zlib", "do_epoch", &[3]),
        ("zlib", "do_configure", &[2, 4]),
    ]))
    .unwrap();
    let inputs = index.inputs(5);
    // Both chains have three tasks with do_fetch; the one that ends later in task order is the start.
    let primary = inputs.own.primary.unwrap();
    let other = if primary == 2 { vec![3, 4] } else { vec![1, 2] };
    assert_eq!(inputs.own.replay, other);
}

#[test]
fn a_noexec_task_is_replaced_by_its_predecessors() {
    let index = TaskIndex::new(graph(&[
        ("zlib", "do_compile", &[]),
        ("zlib", "do_nothing!", &[0]),
        ("zlib", "do_install", &[1]),
    ]))
    .unwrap();
    assert_eq!(index.inputs(2).own.primary, Some(0));
}

#[test]
fn private_trees_of_other_recipes_are_not_an_input() {
    let index = TaskIndex::new(graph(&[("zlib", "do_compile", &[]), ("png", "do_compile", &[0])])).unwrap();
    assert_eq!(index.inputs(1), TaskInputs::default());
}

#[test]
fn foreign_trees_are_joined_recipe_by_recipe() {
    let mut graph = graph(&[
        ("source", "do_unpack", &[]),
        ("source", "do_preconfigure", &[0]),
        ("source", "do_epoch", &[0]),
        ("kernel", "do_compile", &[]),
        ("gcc", "do_configure", &[1, 2, 3]),
    ]);
    graph.tasks[4].foreign_work_trees = vec![1, 2, 3];
    let inputs = TaskIndex::new(graph).unwrap().inputs(4);
    let sources = |primary, replay| TreeSources {
        primary: Some(primary),
        replay,
    };
    let trees: Vec<&TreeSources> = inputs.foreign.values().collect();
    assert_eq!(trees, [&sources(2, vec![1]), &sources(3, vec![])]);
    assert_eq!(inputs.required(), BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_restored_task_stands_for_no_predecessor() {
    let index = TaskIndex::new(graph(&[
        ("zlib", "do_unpack", &[]),
        ("zlib", "do_patch", &[0]),
        ("zlib", "do_install", &[1]),
        ("zlib", "do_package", &[2]),
        ("zlib", "do_create_spdx", &[0, 1, 3]),
    ]))
    .unwrap();
    let built = index.inputs(4).own;
    assert_eq!((built.primary, built.replay), (Some(3), vec![]));
    let restored = index.inputs_beside_restored(4, &BTreeSet::from([3])).own;
    assert_eq!((restored.primary, restored.replay), (Some(1), vec![3]));
}
