//! Clients of other projects on the HTTP cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use bitzel_tests::bazel::{Bazel, REMOTE_ACTIONS};
use bitzel_tests::peers::{BAZEL, CCACHE, CURL, SCCACHE};
use bitzel_tests::{BitzelServer, Site, free_address, poll_until, run};

use super::guarded_server::guarded_server;

const SERVE_ARGUMENTS: &[&str] = &["--http-listen", "127.0.0.1:0"];

#[test]
fn results_written_by_http_are_hits_by_http_and_grpc() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start_with(&site, SERVE_ARGUMENTS);
    let http = format!("--remote_cache={}", server.http_url());
    let grpc = server.bazel_cache_flag();
    let first = Bazel::new(program.clone()).test(&[&http]).succeeded();
    assert_eq!(first.count("remote cache hit"), 0, "{}", first.text);
    for cache in [&http, &grpc] {
        let next = Bazel::new(program.clone());
        let report = next.test(&[cache]).succeeded();
        assert_eq!(
            report.count("remote cache hit"),
            REMOTE_ACTIONS,
            "{}",
            report.text
        );
        let text = std::fs::read_to_string(next.path("bazel-bin/above.txt")).expect("an output");
        assert_eq!(text, "below\nsource\n");
    }
}

#[test]
fn results_by_grpc_are_hits_by_http_in_their_instance_only() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start_with(&site, SERVE_ARGUMENTS);
    let executor = server.bazel_executor_flag();
    let instance = "--remote_instance_name=team/one";
    // No platform properties: they are part of the Actions, and a Bazel with the cache alone has none.
    let first = Bazel::new(program.clone());
    let report = first.test(&[&executor, instance]).succeeded();
    assert_eq!(report.count("remote"), REMOTE_ACTIONS, "{}", report.text);
    for (path, hits) in [("/team/one", REMOTE_ACTIONS), ("/team/two", 0)] {
        let cache = format!("--remote_cache={}{path}", server.http_url());
        let report = Bazel::new(program.clone()).test(&[&cache]).succeeded();
        assert_eq!(report.count("remote cache hit"), hits, "{path}: {}", report.text);
    }
}

/// A C source file.
fn source(site: &Site) -> PathBuf {
    let path = site.path("hello.c");
    std::fs::write(
        &path,
        "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n",
    )
    .expect("a source");
    path
}

/// Compiles with an empty local ccache and a remote one; returns ccache's counters.
fn compile_with_ccache(site: &Site, program: &Path, source: &Path, cache: &str, storage: &str) -> String {
    let object = site.path(&format!("{cache}.o"));
    let ccache = || {
        let mut command = site.command(program);
        command
            .env("CCACHE_DIR", site.path(cache))
            .env("CCACHE_REMOTE_STORAGE", storage)
            .env("CCACHE_LOGFILE", site.path(&format!("{cache}.log")));
        command
    };
    run(ccache().arg("gcc").arg("-c").arg(source).arg("-o").arg(&object));
    assert!(object.is_file());
    run(ccache().arg("--print-stats"))
}

fn counter(counters: &str, name: &str) -> u64 {
    let mut lines = counters.lines().filter_map(|line| line.split_once('\t'));
    let value = lines.find(|(key, _)| *key == name).map(|(_, value)| value);
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no counter {name} in {counters}"))
}

#[test]
fn ccache_shares_objects_in_each_of_its_layouts() {
    let Some(program) = CCACHE.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let source = source(&site);
    let server = BitzelServer::start_with(&site, SERVE_ARGUMENTS);
    for (number, layout) in [
        "/dav",
        "/team/dav|layout=flat",
        "/team|layout=bazel",
        "/dav/sub|layout=subdirs",
    ]
    .iter()
    .enumerate()
    {
        let storage = format!("{}{layout}", server.http_url());
        let compile = |machine: &str| {
            compile_with_ccache(&site, &program, &source, &format!("{machine}{number}"), &storage)
        };
        let first = compile("first");
        assert_eq!(counter(&first, "cache_miss"), 1, "{layout}: {first}");
        assert_eq!(counter(&first, "remote_storage_error"), 0, "{layout}: {first}");
        let second = compile("second");
        assert_eq!(counter(&second, "cache_miss"), 0, "{layout}: {second}");
        assert_eq!(counter(&second, "remote_storage_hit"), 1, "{layout}: {second}");
        let log = std::fs::read_to_string(site.path(&format!("second{number}.log"))).expect("ccache's log");
        assert!(!log.contains("Failed"), "{layout}: {log}");
    }
}

/// A server of sccache. Stopped when it is dropped.
struct Sccache<'a> {
    site: &'a Site,
    program: PathBuf,
    endpoint: String,
    port: String,
}

impl<'a> Sccache<'a> {
    fn start(site: &'a Site, program: &Path, endpoint: &str) -> Self {
        let sccache = Self {
            site,
            program: program.to_owned(),
            endpoint: endpoint.to_owned(),
            port: free_address().port().to_string(),
        };
        // Fails if the cache cannot be read or written.
        run(sccache.command().arg("--start-server"));
        sccache
    }

    fn command(&self) -> Command {
        let mut command = self.site.command(&self.program);
        command
            .env("SCCACHE_SERVER_PORT", &self.port)
            .env("SCCACHE_WEBDAV_ENDPOINT", &self.endpoint)
            .env("SCCACHE_WEBDAV_KEY_PREFIX", "c")
            .env("SCCACHE_IDLE_TIMEOUT", "60");
        command
    }

    fn stats(&self) -> serde_json::Value {
        let text = run(self.command().args(["--show-stats", "--stats-format=json"]));
        let stats: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        stats["stats"].clone()
    }
}

impl Drop for Sccache<'_> {
    fn drop(&mut self) {
        // After an error here the server ends by itself, because it is idle for a minute.
        let _ = self.command().arg("--stop-server").output();
    }
}

#[test]
fn sccache_shares_objects_by_web_dav() {
    let Some(program) = SCCACHE.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let source = source(&site);
    let server = BitzelServer::start_with(&site, SERVE_ARGUMENTS);
    let endpoint = format!("{}/team/dav", server.http_url());
    let object = site.path("hello.o");
    let compile = || {
        let sccache = Sccache::start(&site, &program, &endpoint);
        let mut gcc = sccache.command();
        run(gcc.arg("gcc").arg("-c").arg(&source).arg("-o").arg(&object));
        std::fs::remove_file(&object).expect("an object");
        sccache
    };
    let first = compile();
    // sccache writes to the cache after the compiler's result is complete; only its counters show the end of the write.
    let stats = poll_until("sccache's write to the cache", || {
        let stats = first.stats();
        (stats["cache_writes"] != 0 || stats["cache_write_errors"] != 0).then_some(stats)
    });
    assert_eq!(stats["cache_writes"], 1, "{stats}");
    assert_eq!(stats["cache_misses"]["counts"]["C/C++"], 1, "{stats}");
    drop(first);
    let stats = compile().stats();
    assert_eq!(stats["cache_hits"]["counts"]["C/C++"], 1, "{stats}");
    assert_eq!(stats["cache_writes"], 0, "{stats}");
}

#[test]
fn curl_gets_what_it_put_with_and_without_100_continue() {
    let Some(program) = CURL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start_with(&site, SERVE_ARGUMENTS);
    let sum = |path: &Path| run(site.command("sha256sum").arg(path))[..64].to_owned();
    let curl = |arguments: &[&str]| {
        let mut command = site.command(&program);
        command.args(["--silent", "--show-error", "--max-time", "60"]);
        command.args(["--write-out", "%{http_code}"]).args(arguments);
        run(&mut command)
    };
    // From 1 MiB on, curl sends `Expect: 100-continue` before the body.
    for size in [1_000, 5 << 20] {
        let (blob, copy) = (site.path("blob"), site.path("copy"));
        let bytes: Vec<u8> = (0..size)
            .map(|byte: u32| (byte.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        std::fs::write(&blob, bytes).expect("a blob");
        let url = format!("{}/some/team/cas/{}", server.http_url(), sum(&blob));
        let (blob, copy) = (blob.display().to_string(), copy.display().to_string());
        assert_eq!(curl(&["--output", "/dev/null", "--head", &url]), "404");
        for _ in 0..2 {
            assert_eq!(curl(&["--upload-file", &blob, &url]), "200");
        }
        assert_eq!(curl(&["--output", &copy, &url]), "200");
        assert_eq!(sum(Path::new(&copy)), sum(Path::new(&blob)));
        let wrong = format!("{}/cas/{}", server.http_url(), "0".repeat(64));
        let refusal = curl(&["--upload-file", &blob, &wrong]);
        assert!(
            refusal.ends_with("400") && refusal.contains("is not that of"),
            "{refusal}"
        );
    }
}

#[test]
fn access_rules_apply_to_bazel_and_curl_over_tls() {
    let (Some(bazel), Some(curl)) = (BAZEL.program_or_skip(), CURL.program_or_skip()) else {
        return;
    };
    let site = Site::empty();
    let server = guarded_server(&site, SERVE_ARGUMENTS);
    let authority = site.path("ca.pem");
    let built_by = |user: &str| {
        let url = server.http_url().replace("https://", &format!("https://{user}"));
        let bazel = Bazel::trusting(bazel.clone(), &authority);
        bazel.test(&[&format!("--remote_cache={url}")]).succeeded()
    };
    // Without the right to write nothing is recorded, without the right to read nothing is found; both build locally.
    assert_eq!(built_by("dev:secret@").count("remote cache hit"), 0);
    assert_eq!(built_by("ci:secret@").count("remote cache hit"), 0);
    let report = built_by("dev:secret@");
    assert_eq!(
        report.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        report.text
    );
    assert_eq!(built_by("").count("remote cache hit"), 0);

    // The statuses that curl gets.
    let ca = authority.display().to_string();
    let (value, answer) = (site.path("value"), site.path("answer"));
    std::fs::write(&value, "value").expect("a value");
    let url = format!("{}/dav/value", server.http_url());
    let status = |arguments: &[&str]| {
        let mut command = site.command(&curl);
        command
            .args(["--silent", "--show-error", "--max-time", "60", "--cacert", &ca])
            .args(["--write-out", "%{http_code} %{http_version}", "--output"])
            .arg(&answer)
            .args(arguments);
        run(&mut command)
    };
    let value = value.display().to_string();
    let put = ["--upload-file", &value, &url];
    assert_eq!(status(&put), "401 2");
    assert_eq!(status(&[&["--user", "dev:secret"], &put[..]].concat()), "403 2");
    assert_eq!(status(&[&["--user", "dev:wrong"], &put[..]].concat()), "401 2");
    assert_eq!(status(&[&["--user", "ci:secret"], &put[..]].concat()), "201 2");
    // Without `--http1.1` curl uses HTTP/2.
    assert_eq!(status(&["--http1.1", "--user", "dev:secret", &url]), "200 1.1");
    assert_eq!(std::fs::read_to_string(&answer).expect("an answer"), "value");
}
