//! Projects that are configured, compiled and installed in three sandboxes: the build tool in each one finds the outputs of
//! the one before up to date.

use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, DirectoryNode};

use crate::harness::{EXACT, Node, Run, Worker, directory, file};

/// A compiler that records its calls.
const COMPILER: &[u8] = b"#!/bin/sh\necho \"$*\" >> /work/src/calls\nexec gcc \"$@\"\n";
const A: &str = "#include \"config.h\"\nint answer(void);\nint main(void) { return answer() != ANSWER; }\n";
const B: &str = "#include \"config.h\"\nint answer(void) { return ANSWER; }\n";

/// A program of two source files, with the `files` of its build system.
fn project<const N: usize>(files: [(&str, Node); N]) -> Node {
    let Node::Directory(mut entries, properties) = directory(files) else {
        unreachable!("it is a directory");
    };
    entries.insert("cc".into(), Node::Executable(COMPILER.to_vec()));
    entries.insert("a.c".into(), file(A));
    entries.insert("b.c".into(), file(B));
    directory([("src", Node::Directory(entries, properties))])
}

/// Runs `script` in the project. Returns the root with its outputs, and the calls of the compiler.
async fn step(worker: &Worker, root: Digest, script: &str) -> (Digest, Vec<String>) {
    let run = Run {
        script: &format!("rm -f calls; {script}; touch calls; cat calls >&2"),
        outputs: &[""],
        properties: EXACT,
        working_directory: "src",
        environment: &[("CC", "/work/src/cc")],
        ..Run::default()
    };
    let action = worker.action(root, &run).await;
    let response = worker.execute(action).await;
    let result = worker.succeeded(response).await;
    let source = worker.input_of(&result, "").await;
    let whole = Directory {
        directories: vec![DirectoryNode {
            name: "src".into(),
            digest: Some(source.into()),
        }],
        ..Directory::default()
    };
    let calls = worker.stderr(&result).await;
    let calls = calls
        .lines()
        .filter(|line| line.contains(".c.o") || line.contains("-o "));
    (
        worker.put_message(&whole).await,
        calls.map(str::to_owned).collect(),
    )
}

/// Checks that both files are compiled in the second sandbox and none in the third, and that the installed program works.
async fn check_that_nothing_is_rebuilt(tree: Node, [configure, compile, install]: [&str; 3]) {
    let worker = Worker::new().await;
    let root = worker.put_tree(&tree).await;
    let (root, _) = step(&worker, root, configure).await;
    let (root, compiled) = step(&worker, root, compile).await;
    for source in ["a.c", "b.c"] {
        assert!(
            compiled.iter().any(|call| call.contains(source)),
            "{source} is compiled: {compiled:#?}"
        );
    }
    let (root, rebuilt) = step(&worker, root, install).await;
    assert_eq!(rebuilt, Vec::<String>::new());
    step(&worker, root, "image/usr/bin/prog").await;
}

#[tokio::test]
async fn rebuilds_nothing_with_make() {
    let makefile = "prog: a.o b.o\n\t$(CC) -o $@ $^\n%.o: %.c config.h\n\t$(CC) -c -o $@ $<\n\
                    install: prog\n\tinstall -D prog image/usr/bin/prog\n";
    let configure = Node::Executable(b"#!/bin/sh\necho '#define ANSWER 42' > config.h\n".to_vec());
    let tree = project([("Makefile", file(makefile)), ("configure", configure)]);
    check_that_nothing_is_rebuilt(tree, ["./configure", "make", "make install"]).await;
}

const CMAKE: &str = "cmake_minimum_required(VERSION 3.10)\nproject(prog C)\nset(ANSWER 42)\n\
                     configure_file(config.h.in config.h)\ninclude_directories(${CMAKE_CURRENT_BINARY_DIR})\n\
                     add_executable(prog a.c b.c)\ninstall(TARGETS prog)\n";

fn cmake_project() -> Node {
    project([
        ("CMakeLists.txt", file(CMAKE)),
        ("config.h.in", file("#define ANSWER @ANSWER@\n")),
    ])
}

#[tokio::test]
async fn rebuilds_nothing_with_cmake_and_make() {
    let steps = [
        "cmake -G 'Unix Makefiles' -DCMAKE_INSTALL_PREFIX=/usr -S . -B build",
        "cmake --build build",
        "DESTDIR=/work/src/image cmake --build build --target install",
    ];
    check_that_nothing_is_rebuilt(cmake_project(), steps).await;
}

#[tokio::test]
async fn rebuilds_nothing_with_cmake_and_ninja() {
    let steps = [
        "cmake -G Ninja -DCMAKE_INSTALL_PREFIX=/usr -S . -B build",
        "cmake --build build",
        "DESTDIR=/work/src/image cmake --build build --target install",
    ];
    check_that_nothing_is_rebuilt(cmake_project(), steps).await;
}

#[tokio::test]
async fn rebuilds_nothing_with_meson() {
    let meson = "project('prog', 'c')\nconfigure_file(output: 'config.h', configuration: {'ANSWER': 42})\n\
                 executable('prog', 'a.c', 'b.c', install: true)\n";
    let tree = project([("meson.build", file(meson))]);
    let steps = [
        "meson setup --prefix=/usr build",
        "ninja -C build",
        "DESTDIR=/work/src/image ninja -C build install",
    ];
    check_that_nothing_is_rebuilt(tree, steps).await;
}
