//! Compiles bitzel's own `.proto` files with a compiler written in Rust, so that no `protoc` has to be installed.

use std::error::Error;
use std::path::PathBuf;

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
    write_descriptors()?;
    println!("cargo:rerun-if-changed=protos");
    println!("cargo:rerun-if-changed=vendor");
    Ok(())
}

/// Reflection needs the descriptors of everything that is served; the types of these come from `bazel-remote-apis`.
fn write_descriptors() -> Result<(), Box<dyn Error>> {
    let files = [
        "build/bazel/remote/asset/v1/remote_asset.proto",
        "build/bazel/remote/execution/v2/remote_execution.proto",
        "google/bytestream/bytestream.proto",
    ];
    let mut compiler = protox::Compiler::new(["vendor"])?;
    compiler.include_imports(true).open_files(files)?;
    let path =
        PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("descriptors.bin");
    std::fs::write(path, compiler.encode_file_descriptor_set())?;
    Ok(())
}
