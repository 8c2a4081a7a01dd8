//! `rexec` of the Go SDK as a client: outputs outside of the working directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bitzel_tests::peers::REXEC;
use bitzel_tests::{BitzelServer, Site, text_of};

/// Runs a shell command in the directory `sub` of `inputs`, with `output` as its declared output.
fn execute(program: &Path, server: &BitzelServer, inputs: &Path, output: &str, script: &str) -> Output {
    Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(["-service", &server.address().to_string()])
        .args([
            "-service_no_security",
            "-use_application_default_credentials=false",
        ])
        .arg("-exec_root")
        .arg(inputs)
        .args(["-inputs", "sub/source.txt", "-working_directory", "sub"])
        .args(["-output_files", output, "--", "/bin/sh", "-c", script])
        // It writes its log there.
        .env("TMPDIR", inputs)
        .output()
        .expect("rexec starts")
}

#[test]
fn rexec_gets_outputs_beside_its_working_directory() {
    let Some(program) = REXEC.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start_with(&site, &["-j1"]);
    let inputs = site.path("inputs");
    fs::create_dir_all(inputs.join("sub")).expect("a directory");
    fs::write(inputs.join("sub/source.txt"), "source\n").expect("a file");

    let script = "cat source.txt > ../result.txt";
    let output = execute(&program, &server, &inputs, "../result.txt", script);
    // Its status says nothing: it is 0 after errors of the server, too.
    let result =
        fs::read_to_string(inputs.join("result.txt")).unwrap_or_else(|_| panic!("{}", text_of(&output)));
    assert_eq!(result, "source\n");

    let output = execute(&program, &server, &inputs, "../../result.txt", "true");
    let text = text_of(&output);
    assert!(text.contains("leads out of the input root"), "{text}");
}
