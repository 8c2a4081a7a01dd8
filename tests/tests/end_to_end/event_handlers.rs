//! Event handlers of the metadata, and openembedded-core's classes that are made of them.

use super::releases::CONFIGURATION;
use bitzel_tests::{Release, Site, tree_of};

const HANDLERS: &str = r#"
addhandler site_end
site_end[eventmask] = "bb.event.BuildCompleted bb.event.BuildStarted bb.event.HeartbeatEvent"
python site_end() {
    os.makedirs(d.getVar("TMPDIR"), exist_ok=True)
    with open(d.expand("${TMPDIR}/site-end"), "a", encoding="utf-8") as stream:
        stream.write("%s %d\n" % (bb.event.getName(e), e.getFailures()))
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
    let warning = "WARNING: the event handler site_end does not run for bb.event.HeartbeatEvent";
    assert_eq!(first.text.matches(warning).count(), 1, "{}", first.text);
    assert!(!first.text.contains("site_task"), "{}", first.text);
    let written = tree_of(&output);
    assert!(
        written.keys().any(|path| path.ends_with("site-task")),
        "{:?}",
        written.keys()
    );
    let written = || std::fs::read_to_string(site.path("build/bitzel-build/tmp/site-end")).expect("events");
    assert_eq!(written(), "BuildStarted 0\nBuildCompleted 0\n");
    let second = site.build(&["-c", "compile", "zlib"]).succeeded();
    assert!(!second.text.contains("site_end"), "{}", second.text);
    site.edit_layer("recipes/zlib/zlib_1.2.13.bb", "./configure", "false");
    drop(site.build(&["-c", "compile", "zlib"]).failed());
    assert!(written().ends_with("BuildCompleted 1\n"), "{}", written());
}

#[test]
fn statistics_history_and_rm_work_of_core_are_accepted() {
    let Some(release) = Release::find_or_skip("6.0.2") else {
        return;
    };
    let site = Site::of_release(&release, CONFIGURATION);
    site.configure("INHERIT += \"buildhistory buildstats rm_work\"\nBUILDHISTORY_COMMIT = \"0\"\n");
    let first = site.build(&["makedevs-native"]).succeeded();
    let warning = "WARNING: the event handler run_buildstats does not run for bb.event.HeartbeatEvent";
    assert_eq!(first.text.matches(warning).count(), 1, "{}", first.text);
    let statistics = tree_of(&site.path("build/bitzel-build/tmp/buildstats"));
    let names: Vec<String> = statistics.keys().map(|path| path.display().to_string()).collect();
    for end in ["/build_stats", "/makedevs-native-1.0.1-r0/do_compile"] {
        assert_eq!(
            names.iter().filter(|name| name.ends_with(end)).count(),
            1,
            "{names:?}"
        );
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

/// Class of the shape of OE's cve-check: a database that another recipe downloads by code of its own, one report for each
/// recipe, an index to which all of them append, and a summary at the end of the build.
const REPORT_CLASS: &str = r#"
REPORT_DOWNLOAD = "${DL_DIR}/reports/database"
REPORT_DATABASE = "${TMPDIR}/database/database"
REPORT_DIR = "${LOG_DIR}/reports"
REPORT_INDEX = "${REPORT_DIR}/index"
addtask report
do_report[nostamp] = "1"
do_report[depends] = "database:do_unpack"
python do_report() {
    with open(d.getVar("REPORT_DATABASE"), encoding="utf-8") as stream:
        text = stream.read()
    os.makedirs(d.getVar("REPORT_DIR"), exist_ok=True)
    report = d.expand("${REPORT_DIR}/${PN}")
    with open(report, "w", encoding="utf-8") as stream:
        stream.write(d.expand("${PN} ") + text)
    with open(d.getVar("REPORT_INDEX"), "a+", encoding="utf-8") as stream:
        stream.write(report + "\n")
}
addhandler report_summary
report_summary[eventmask] = "bb.event.BuildCompleted"
python report_summary() {
    texts = []
    with open(d.getVar("REPORT_INDEX"), encoding="utf-8") as stream:
        for line in stream:
            with open(line.rstrip(), encoding="utf-8") as report:
                texts.append(report.read())
    with open(d.expand("${REPORT_DIR}/summary"), "w", encoding="utf-8") as stream:
        stream.write("".join(sorted(texts)))
    os.remove(d.getVar("REPORT_INDEX"))
}
"#;

const DATABASE: &str = r#"
LICENSE = "MIT"
do_fetch[nostamp] = "1"
python do_fetch() {
    if not os.path.exists(d.getVar("REPORT_DOWNLOAD")):
        bb.fatal("there is no database")
}
python do_unpack() {
    import shutil

    os.makedirs(os.path.dirname(d.getVar("REPORT_DATABASE")), exist_ok=True)
    shutil.copyfile(d.getVar("REPORT_DOWNLOAD"), d.getVar("REPORT_DATABASE"))
}
"#;

#[test]
fn reports_of_all_recipes_are_summarised() {
    let site = Site::empty();
    std::fs::write(site.layer().join("classes/report.bbclass"), REPORT_CLASS).expect("a class");
    site.add_recipe("database", DATABASE);
    let downloads = site.path("downloads");
    site.configure(&format!(
        "INHERIT += \"report\"\nDL_DIR = \"{}\"\n",
        downloads.display()
    ));
    std::fs::create_dir_all(downloads.join("reports")).expect("a directory");
    for version in ["old", "new"] {
        std::fs::write(downloads.join("reports/database"), format!("{version}\n")).expect("a database");
        drop(site.build(&["-c", "report", "zlib", "lz4"]).succeeded());
        let written = site.path("build/bitzel-build/tmp/log/reports");
        let summary = std::fs::read_to_string(written.join("summary")).expect("a summary");
        assert_eq!(summary, format!("lz4 {version}\nzlib {version}\n"));
        assert!(!written.join("index").exists(), "the handler has removed it");
    }
}
