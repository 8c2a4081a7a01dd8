//! Compiles this crate again when the Python that it carries changes, which `include_dir` alone does not notice.

fn main() {
    println!("cargo:rerun-if-changed=python");
}
