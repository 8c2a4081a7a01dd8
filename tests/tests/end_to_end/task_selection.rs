//! Selection of tasks on the command line.

use bitzel_tests::Site;

#[test]
fn one_task_of_a_recipe_runs_with_what_it_needs() {
    let site = Site::empty();
    let report = site.build(&["-c", "configure", "zlib"]).succeeded();
    let ran = report.tasks("ran");
    assert!(ran.contains("zlib:do_configure"), "{}", report.text);
    assert!(ran.contains("zlib:do_unpack"), "{}", report.text);
    assert!(!ran.contains("zlib:do_compile"), "{}", report.text);
}

#[test]
fn a_target_can_name_its_task() {
    let site = Site::empty();
    let report = site.build(&["zlib:do_patch"]).succeeded();
    let ran = report.tasks("ran");
    assert!(ran.contains("zlib:do_patch"), "{}", report.text);
    assert!(!ran.contains("zlib:do_configure"), "{}", report.text);
}

#[test]
fn the_graph_command_runs_no_task() {
    let site = Site::empty();
    let graph = site.output_of("graph", &["--json", "demo-image"]);
    let graph: serde_json::Value = serde_json::from_str(&graph).expect("JSON");
    let tasks = graph["tasks"].as_array().expect("a list of tasks");
    for (recipe, task) in [
        ("demo-image", "do_rootfs"),
        ("lz4-native", "do_compile"),
        ("picture-report", "do_fetch"),
    ] {
        let found = tasks.iter().any(|entry| {
            let recipe_index = entry["recipe"].as_u64().unwrap_or_default();
            let package_name =
                &graph["recipes"][usize::try_from(recipe_index).expect("an index")]["package_name"];
            *package_name == recipe && entry["name"] == task
        });
        assert!(found, "no {recipe}:{task} in the graph");
    }
}

#[test]
fn a_forced_task_runs_again_and_changes_nothing_else() {
    let site = Site::empty();
    drop(site.build(&["-c", "install", "zlib"]).succeeded());
    let forced = site.build(&["-f", "-c", "compile", "zlib"]).succeeded();
    assert_eq!(forced.tasks("ran"), ["zlib:do_compile".to_owned()].into());
    let cleared = site
        .build(&["-C", "compile", "-c", "install", "zlib"])
        .succeeded();
    assert!(
        cleared.tasks("ran").contains("zlib:do_compile"),
        "{}",
        cleared.text
    );
    assert!(
        !cleared.tasks("ran").contains("zlib:do_configure"),
        "{}",
        cleared.text
    );
    let after = site.build(&["-c", "install", "zlib"]).succeeded();
    assert_eq!(after.tasks("ran"), [].into());
}

#[test]
fn runall_runs_one_task_of_all_recipes() {
    let site = Site::empty();
    let report = site.build(&["--runall", "fetch", "picture-report"]).succeeded();
    let ran = report.tasks("ran");
    for recipe in ["zlib", "libpng", "picture-report"] {
        assert!(ran.contains(&format!("{recipe}:do_fetch")), "{}", report.text);
    }
    assert!(
        ran.iter().all(|task| task.ends_with(":do_fetch")),
        "{}",
        report.text
    );
}

#[test]
fn runonly_runs_one_task_and_its_dependencies() {
    let site = Site::empty();
    let report = site.build(&["--runonly", "unpack", "picture-report"]).succeeded();
    let ran = report.tasks("ran");
    assert!(ran.contains("zlib:do_unpack"), "{}", report.text);
    let expected = |task: &String| task.ends_with(":do_fetch") || task.ends_with(":do_unpack");
    assert!(ran.iter().all(expected), "{}", report.text);
}
