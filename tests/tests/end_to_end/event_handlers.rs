//! Event handlers of the metadata, and openembedded-core's classes that are made of them.

use super::releases::CONFIGURATION;
use bitzel_tests::{Release, Site, tree_of};

const HANDLERS: &str = r#"
addhandler site_end
site_end[eventmask] = "bb.event.BuildCompleted bb.event.BuildStarted"
python site_end() {
    pass
}
addhandler site_task
site_task[eventmask] = "bb.build.TaskSucceeded"
python site_task() {
    if e.task == "do_compile":
        with open(d.expand("${WORKDIR}/site-task"), "w", encoding="utf-8") as stream:
            stream.write(e.task)
}
"#;

#[test]
fn handlers_of_tasks_run_and_others_are_named_once() {
    let site = Site::empty();
    std::fs::write(site.layer().join("classes/site.bbclass"), HANDLERS).expect("a class");
    site.configure("INHERIT += \"site\"\n");
    let output = site.path("output");
    let directory = output.display().to_string();
    let first = site
        .build(&["-c", "compile", "--output", &directory, "zlib"])
        .succeeded();
    let warning = "WARNING: the event handler site_end does not run for bb.event.BuildCompleted";
    assert_eq!(first.text.matches(warning).count(), 1, "{}", first.text);
    assert!(!first.text.contains("site_task"), "{}", first.text);
    let written = tree_of(&output);
    assert!(
        written.keys().any(|path| path.ends_with("site-task")),
        "{:?}",
        written.keys()
    );
    let second = site.build(&["-c", "compile", "zlib"]).succeeded();
    assert!(!second.text.contains("site_end"), "{}", second.text);
}

#[test]
fn statistics_history_and_rm_work_of_core_are_accepted() {
    let Some(release) = Release::find_or_skip("6.0.2") else {
        return;
    };
    let site = Site::of_release(&release, CONFIGURATION);
    site.configure("INHERIT += \"buildhistory buildstats rm_work\"\nBUILDHISTORY_COMMIT = \"0\"\n");
    let first = site.build(&["makedevs-native"]).succeeded();
    for handler in ["run_buildstats", "buildhistory_eventhandler"] {
        let warning = format!("WARNING: the event handler {handler} does not run for ");
        assert_eq!(first.text.matches(&warning).count(), 1, "{}", first.text);
    }
    assert!(!first.tasks("ran").contains("makedevs-native:do_rm_work"));
    // What rm_work would have deleted is still there for the next task.
    let next = site
        .build(&["-f", "-c", "compile", "makedevs-native"])
        .succeeded();
    assert_eq!(
        next.tasks("ran"),
        ["makedevs-native:do_compile".to_owned()].into()
    );
    let second = site.build(&["makedevs-native"]).succeeded();
    assert_eq!(second.tasks("ran"), [].into());
}
