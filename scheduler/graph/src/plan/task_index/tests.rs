use super::*;

/// Graph of tasks in the form (recipe, task, dependencies). Names of `noexec` tasks end in "!".
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
fn height_is_the_longest_chain_of_dependents() {
    let index = TaskIndex::new(graph(&[
        ("a", "do_x", &[]),
        ("b", "do_x", &[0]),
        ("c", "do_x", &[0, 1]),
    ]))
    .unwrap();
    assert_eq!([0, 1, 2].map(|task| index.height(task)), [2, 1, 0]);
}

#[test]
fn an_error_names_the_cycle_or_the_wrong_index() {
    let cycle = TaskIndex::new(graph(&[("a", "do_x", &[1]), ("a", "do_y", &[0])])).unwrap_err();
    assert_eq!(cycle, InvalidGraph::Cycle("a:do_x".to_owned()));
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
