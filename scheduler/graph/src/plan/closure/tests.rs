use super::*;

/// A graph written as (recipe, task, dependencies); tasks that do nothing end in "!".
pub(crate) fn graph(tasks: &[(&str, &str, &[u32])]) -> TaskGraph {
    let mut graph = TaskGraph {
        format_version: 1,
        ..TaskGraph::default()
    };
    for (recipe, name, dependencies) in tasks {
        let position = graph
            .recipes
            .iter()
            .position(|known| known.package_name == *recipe);
        let recipe = position.unwrap_or_else(|| {
            graph.recipes.push(Recipe {
                key: format!("/work/layers/demo/{recipe}.bb"),
                package_name: (*recipe).to_owned(),
                work_directory: format!("build/tmp/work/{recipe}"),
                log_directory: format!("build/tmp/work/{recipe}/temp"),
                ..Recipe::default()
            });
            graph.recipes.len() - 1
        });
        graph.tasks.push(Task {
            recipe: u32::try_from(recipe).unwrap(),
            name: name.trim_end_matches('!').to_owned(),
            noexec: name.ends_with('!'),
            basehash: format!("base-{recipe}-{name}"),
            dependencies: dependencies.to_vec(),
            hash_dependencies: dependencies.to_vec(),
            ..Task::default()
        });
    }
    graph
}

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
fn a_task_that_does_nothing_stands_for_its_predecessors() {
    let index = TaskIndex::new(graph(&[
        ("zlib", "do_compile", &[]),
        ("zlib", "do_nothing!", &[0]),
        ("zlib", "do_install", &[1]),
    ]))
    .unwrap();
    assert_eq!(index.inputs(2).own.primary, Some(0));
}

#[test]
fn other_recipes_private_trees_are_no_input() {
    let index = TaskIndex::new(graph(&[("zlib", "do_compile", &[]), ("png", "do_compile", &[0])])).unwrap();
    assert_eq!(index.inputs(1), TaskInputs::default());
}

#[test]
fn height_is_the_longest_way_up() {
    let index = TaskIndex::new(graph(&[
        ("a", "do_x", &[]),
        ("b", "do_x", &[0]),
        ("c", "do_x", &[0, 1]),
    ]))
    .unwrap();
    assert_eq!([0, 1, 2].map(|task| index.height(task)), [2, 1, 0]);
}

#[test]
fn circles_and_wrong_indices_are_named() {
    let circle = TaskIndex::new(graph(&[("a", "do_x", &[1]), ("a", "do_y", &[0])])).unwrap_err();
    assert_eq!(circle, InvalidGraph::Circle("a:do_x".to_owned()));
    let wrong = TaskIndex::new(graph(&[("a", "do_x", &[7])])).unwrap_err();
    assert_eq!(
        wrong,
        InvalidGraph::Index {
            task: 0,
            what: "task",
            index: 7
        }
    );
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
