//! Other people's programs against bitzel's server, on loopback.
//!
//! They need what `make setup` installs where it can. A test whose program is missing says so and passes; `make test`
//! counts it as skipped.

mod peers {
    mod bazel;
    mod bazel_lost_blob;
    mod bazel_tls;
    mod build_stream;
    mod caches;
    mod guarded;
    mod http_cache;
}
