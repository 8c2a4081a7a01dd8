//! Tests with programs of other projects on loopback: clients of `bitzel serve`, and caches for `bitzel build`.
//!
//! `make setup` installs these programs if it can. A test without its program passes after a line with `SKIPPED`;
//! `make test` counts it as skipped.

#[test]
fn every_file_is_a_module() {
    bitzel_tests::assert_declares_all_modules("tests/peers.rs");
}

mod peers {
    mod bazel;
    mod bazel_lost_blob;
    mod bazel_tls;
    mod build_grid;
    mod build_stream;
    mod guarded_server;
    mod http_cache;
    mod pants;
    mod remote_caches;
    mod rexec;
}
