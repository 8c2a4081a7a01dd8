//! Generates the wire types from the `.proto` files, with a compiler written in Rust: no `protoc` has to be installed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "bitzel/builds/v1/builds.proto",
        "bitzel/farm/v1/farm.proto",
        "bitzel/graph/v1/graph.proto",
        "bitzel/task/v1/task.proto",
        "bitzel/worker/v1/worker.proto",
        "build/bazel/remote/asset/v1/remote_asset.proto",
        "build/bazel/remote/execution/v2/remote_execution.proto",
        "google/bytestream/bytestream.proto",
        "keda/externalscaler.proto",
    ];
    let mut compiler = protox::Compiler::new(["protos", "vendor"])?;
    compiler.include_imports(true).open_files(files)?;
    let directory = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(
        directory.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    let mut config = tonic_prost_build::Config::new();
    // Names find the descriptors of messages, see `message_memory`.
    config.enable_type_names();
    tonic_prost_build::configure()
        // Wrappers such as `UInt32Value` stay messages, as they are on the wire.
        .compile_well_known_types(true)
        // The exporter writes the graph as JSON with the field names of graph.proto: one schema, two encodings.
        .type_attribute(
            ".bitzel.graph.v1",
            "#[derive(serde::Deserialize, serde::Serialize)] #[serde(default, deny_unknown_fields)]",
        )
        .include_file("protocols.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    println!("cargo:rerun-if-changed=protos");
    println!("cargo:rerun-if-changed=vendor");
    Ok(())
}
