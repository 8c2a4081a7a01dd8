use serde_json::Value;

use super::*;
use crate::plan::task_index::tests::graph;

fn index(needs_dependency_data: bool) -> TaskIndex {
    let mut graph = graph(&[
        ("zlib", "do_install", &[]),
        ("zlib", "do_populate_sysroot", &[0]),
        ("other", "do_x", &[]),
        ("png", "do_prepare_recipe_sysroot", &[1, 2]),
    ]);
    graph.recipes[1].key = "mc:other:/work/layers/demo/other.bb".to_owned();
    graph.recipes[1].multiconfig = "other".to_owned();
    graph.tasks[3].needs_dependency_data = needs_dependency_data;
    TaskIndex::new(graph).unwrap()
}

fn dependencies(index: &TaskIndex) -> serde_json::Map<String, Value> {
    let bytes = dependencies_file(index, 3, "own", &|task| if task == 0 { "zero" } else { "one" });
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn dependency_data_is_transitive_within_the_multiconfig() {
    let entries = dependencies(&index(true));
    let keys: Vec<&String> = entries.keys().collect();
    let zlib = "/work/layers/demo/zlib.bb";
    assert_eq!(
        keys,
        [
            "/work/layers/demo/png.bb:do_prepare_recipe_sysroot",
            &format!("{zlib}:do_install"),
            &format!("{zlib}:do_populate_sysroot"),
        ]
    );
    let install = &entries[&format!("{zlib}:do_install")];
    assert_eq!(install[0], "zlib");
    assert_eq!(install[1], "do_install");
    assert_eq!(
        (&install[5], &install[6]),
        (&Value::from("zero"), &Value::from("zero"))
    );
}

#[test]
fn other_tasks_get_their_direct_dependencies() {
    let entries = dependencies(&index(false));
    assert_eq!(entries.len(), 2);
    assert_eq!(
        entries["/work/layers/demo/png.bb:do_prepare_recipe_sysroot"][5],
        "own"
    );
}

#[test]
fn the_task_file_says_what_the_graph_says() {
    let file: Value = serde_json::from_slice(&task_file(&index(true), 1, "hash", false)).unwrap();
    assert_eq!(file["format"], 1);
    assert_eq!(file["task"], "do_populate_sysroot");
    assert_eq!(file["taskhash"], "hash");
    assert_eq!(file["basehash"], "base-0-do_populate_sysroot");
    assert_eq!(file["work_directory"], "build/tmp/work/zlib");
}

#[test]
fn multiconfig_prefixes_are_no_part_of_file_names() {
    assert_eq!(file_name("mc:x:virtual:native:/a.bb"), "virtual:native:/a.bb");
    assert_eq!(file_name("virtual:native:/a.bb"), "virtual:native:/a.bb");
}

#[test]
fn the_task_file_names_the_work_directories_of_other_recipes() {
    let mut graph = graph(&[
        ("source", "do_unpack", &[]),
        ("source", "do_patch", &[0]),
        ("reader", "do_x", &[0, 1]),
    ]);
    graph.recipes[0].work_directory = "build/tmp/work/source".to_owned();
    graph.tasks[2].foreign_work_trees = vec![0, 1];
    let index = TaskIndex::new(graph).unwrap();
    let file: Value = serde_json::from_slice(&task_file(&index, 2, "hash", false)).unwrap();
    assert_eq!(
        file["foreign_work_directories"],
        serde_json::json!(["build/tmp/work/source"])
    );
}
