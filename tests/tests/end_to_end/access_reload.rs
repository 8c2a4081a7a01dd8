//! Access rules that change while a server runs, as a kubelet changes the files of a mounted `ConfigMap`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bitzel_proto::farm::GetFarmRequest;
use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_tests::{BitzelServer, Site, poll_until};
use tokio::runtime::Runtime;
use tonic::Code;

/// Volume of a `ConfigMap`: the file is a symlink to `..data/server.toml`, and `..data` a symlink to a directory that has a
/// new name for each version.
struct ConfigMapVolume {
    directory: PathBuf,
    version: u32,
}

impl ConfigMapVolume {
    fn new(directory: PathBuf, text: &str) -> Self {
        std::fs::create_dir(&directory).expect("a directory");
        symlink("..data/server.toml", directory.join("server.toml")).expect("a symlink");
        let mut volume = Self {
            directory,
            version: 0,
        };
        volume.replace(text);
        volume
    }

    fn file(&self) -> String {
        self.directory.join("server.toml").display().to_string()
    }

    /// Swaps `..data` by a rename, and removes the version from before.
    fn replace(&mut self, text: &str) {
        let version = |number: u32| format!("..2026_11_30_{number}");
        self.version += 1;
        let new = self.directory.join(version(self.version));
        std::fs::create_dir(&new).expect("a directory");
        std::fs::write(new.join("server.toml"), text).expect("a file");
        let swapped = self.directory.join("..data_tmp");
        symlink(version(self.version), &swapped).expect("a symlink");
        std::fs::rename(&swapped, self.directory.join("..data")).expect("a swap");
        if self.version > 1 {
            let old = self.directory.join(version(self.version - 1));
            std::fs::remove_dir_all(old).expect("the old version is there");
        }
    }
}

fn configuration(anonymous: &str) -> String {
    format!("[execution]\njobs = 0\n[access]\nanonymous = [{anonymous}]\n")
}

fn log(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the server's log")
}

#[test]
fn rules_change_without_a_restart() {
    let site = Site::empty();
    let log_file = site.path("log");
    let mut volume = ConfigMapVolume::new(site.path("config"), &configuration("\"read\""));
    let file = volume.file();
    let arguments = ["--config", &file, "--admin", "127.0.0.1:0"];
    let server = BitzelServer::start_with_log(&site, &arguments, &log_file);
    let runtime = Runtime::new().expect("a runtime");
    let channel = runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address()));
        endpoint
            .expect("an address")
            .connect()
            .await
            .expect("a connection")
    });
    // One connection all the time: rules are those of the request, not of the connection.
    let ask = || {
        let mut farm = FarmClient::new(channel.clone());
        let state = runtime.block_on(farm.get_farm(GetFarmRequest {}));
        state.map(drop).map_err(|status| status.code())
    };
    let metric = |line: &str| server.metrics().lines().any(|other| other == line);
    assert_eq!(ask(), Err(Code::Unauthenticated));
    poll_until("the rules are followed", || {
        metric("bitzel_access_rules_refused 0").then_some(())
    });

    volume.replace(&configuration("\"read\", \"execute\""));
    poll_until("the new rules apply", || ask().is_ok().then_some(()));
    assert!(metric("bitzel_access_reloads_total{outcome=\"applied\"} 1"));

    for (mistake, message) in [
        ("\"read\", \"run\"", "\"run\" is no permission"),
        ("", "nobody could do anything"),
        ("\"read\"]\nanonimous = [\"all\"", "anonimous"),
    ] {
        volume.replace(&configuration(mistake));
        poll_until("the mistake is reported", || {
            log(&log_file).replace('\\', "").contains(message).then_some(())
        });
        poll_until("the metric tells it", || {
            metric("bitzel_access_rules_refused 1").then_some(())
        });
        assert_eq!(ask(), Ok(()), "the rules from before are kept");
        assert!(!metric("bitzel_access_reloads_total{outcome=\"applied\"} 2"));
    }

    volume.replace(&configuration("\"read\"").replace("jobs = 0", "jobs = 1"));
    poll_until("the permission is withdrawn", || {
        (ask() == Err(Code::Unauthenticated)).then_some(())
    });
    poll_until("the metric tells it", || {
        metric("bitzel_access_rules_refused 0").then_some(())
    });
    poll_until("a change that needs a restart is reported", || {
        log(&log_file)
            .contains("changed outside of [access] too")
            .then_some(())
    });
}
