//! Compiles bitzel's own `.proto` files with a compiler written in Rust, so that no `protoc` has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "bitzel/graph/v1/graph.proto",
        "bitzel/task/v1/task.proto",
        "bitzel/worker/v1/worker.proto",
    ];
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure()
        // The exporter writes the graph as JSON with the field names of graph.proto: one schema, two encodings.
        .type_attribute(
            ".bitzel.graph.v1",
            "#[derive(serde::Deserialize, serde::Serialize)] #[serde(default, deny_unknown_fields)]",
        )
        .extern_path(
            ".build.bazel.remote.execution.v2",
            "::bazel_remote_apis::build::bazel::remote::execution::v2",
        )
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=protos");
    Ok(())
}
