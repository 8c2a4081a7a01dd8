//! Tasks that open a terminal, with openembedded-core's own classes and Python's pseudo-terminal in place of a person.

use std::fs;
use std::process::Command;

use super::releases::CONFIGURATION;
use bitzel_tests::{Release, Site, bitzel_program, text_of};

/// Runs a command in a new terminal, and answers each prompt that it shows with a line. Prints all that the terminal shows.
const PERSON: &str = r#"
import json, os, pty, sys
answers = json.loads(sys.argv[1])
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown = b""
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        data = b""
    if not data:
        break
    shown += data
    while answers and answers[0][0].encode() in shown:
        os.write(terminal, answers.pop(0)[1].encode() + b"\n")
sys.stdout.buffer.write(shown)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

const RECIPE: &str = r#"
SUMMARY = "A program with a configuration as the kernel has it"
LICENSE = "CLOSED"
INHIBIT_DEFAULT_DEPS = "1"
SRC_URI = "file://Makefile"
S = "${UNPACKDIR}"
B = "${WORKDIR}/build"
inherit cml1 native
do_menuconfig[depends] = ""
EXTRA_OEMAKE = "-f ${S}/Makefile"
do_configure[dirs] = "${B}"
do_compile[dirs] = "${B}"
do_compile() {
    cat .config
}
do_install() {
    :
}
"#;

const MAKEFILE: &str = r#"
oldconfig:
	echo CONFIG_OLD=y > .config
menuconfig:
	@test -t 0 && test -t 1
	@echo "TERM is $$TERM"; printf 'which? '; read answer; echo "CONFIG_$$answer=y" >> .config
"#;

#[test]
fn menuconfig_has_the_terminal_and_hands_its_file_back() {
    let Some(site) = site() else {
        return;
    };
    let text = in_terminal(
        &site,
        &[("which? ", "ANSWER")],
        &["-c", "menuconfig", "menu-demo-native"],
    );
    assert!(text.contains("TERM is vt100"), "{text}");
    let changed = site.path("build/bitzel-changes/menu-demo-native/build/.config");
    assert!(
        text.contains(&format!("changed: {}", changed.display())),
        "{text}"
    );
    let config = fs::read_to_string(&changed).expect("the changed .config");
    assert_eq!(config, "CONFIG_OLD=y\nCONFIG_ANSWER=y\n");
    // Nobody's result has changed.
    let compiled = site.build(&["-c", "compile", "menu-demo-native"]).succeeded();
    assert_eq!(
        compiled.tasks("ran"),
        ["menu-demo-native:do_compile".to_owned()].into()
    );
    let log = site.output_of("log", &["menu-demo-native:do_compile"]);
    assert!(!log.contains("CONFIG_ANSWER"), "{log}");
}

#[test]
fn devshell_is_a_shell_in_the_source_directory() {
    let Some(site) = site() else {
        return;
    };
    let answers = [
        ("$ ", "echo directory-$(basename $PWD)"),
        ("directory-sources", "echo '# edited' >> Makefile; echo do''ne"),
        ("done", "exit"),
    ];
    site.configure("SHELL = \"sh\"\n");
    let text = in_terminal(&site, &answers, &["-c", "devshell", "menu-demo-native"]);
    let changed = site.path("build/bitzel-changes/menu-demo-native/sources/Makefile");
    let makefile = fs::read_to_string(&changed).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(makefile.ends_with("# edited\n"), "{makefile}");
}

#[test]
fn a_terminal_task_without_a_terminal_is_refused() {
    let Some(site) = site() else {
        return;
    };
    let report = site.build(&["-c", "devshell", "menu-demo-native"]).failed();
    assert!(
        report.text.contains("this task opens a terminal"),
        "{}",
        report.text
    );
}

/// A build directory of openembedded-core with a recipe of its own.
fn site() -> Option<Site> {
    let release = Release::find_or_skip("6.0.2")?;
    let site = Site::of_release(&release, CONFIGURATION);
    site.add_layer_to_core("wrynose");
    site.add_recipe("menu-demo-native", RECIPE);
    let files = site.layer().join("recipes/menu-demo-native/files");
    fs::create_dir_all(&files).expect("a directory");
    fs::write(files.join("Makefile"), MAKEFILE).expect("a Makefile");
    Some(site)
}

/// Runs `bitzel build` in a terminal, and returns what the terminal has shown.
fn in_terminal(site: &Site, answers: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command: Command = site.command("timeout");
    let output = command
        .args(["--kill-after=10", "240", "python3", "-c", PERSON])
        .arg(serde_json::to_string(answers).expect("JSON"))
        .arg(bitzel_program())
        .arg("build")
        .args(site.build_directory_arguments())
        .args(arguments)
        .env("TERM", "vt100")
        .output()
        .expect("python3 starts");
    assert!(output.status.success(), "{}", text_of(&output));
    text_of(&output)
}
