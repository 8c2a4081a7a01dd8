use super::*;

/// Mounts of a container with a volume for the cache directory.
const CONTAINER: &str = "\
100 90 0:50 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
101 100 0:51 / /proc rw,nosuid - proc proc rw
102 101 0:52 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
103 100 8:1 /volumes/1 /data rw,relatime - ext4 /dev/sda1 rw
";

fn facts() -> Facts {
    Facts {
        cache_directory: "/data/worker".into(),
        mounts: CONTAINER.to_owned(),
        security_label: "unconfined".to_owned(),
        refused_calls: vec![],
    }
}

fn only_obstacle(facts: &Facts) -> String {
    let mut obstacles = facts.obstacles();
    assert_eq!(obstacles.len(), 1, "{obstacles:?}");
    obstacles.remove(0)
}

#[test]
fn reports_nothing_about_a_pod_that_fits() {
    assert_eq!(facts().obstacles(), Vec::<String>::new());
}

#[test]
fn names_the_refused_system_calls() {
    let refused = Facts {
        refused_calls: vec!["unshare", "mount"],
        ..facts()
    };
    assert!(only_obstacle(&refused).contains("refuses the system calls unshare, mount:"));
}

#[test]
fn names_the_apparmor_profile() {
    let confined = |label: &str| Facts {
        security_label: label.to_owned(),
        ..facts()
    };
    let enforced = only_obstacle(&confined("cri-containerd.apparmor.d (enforce)"));
    assert!(enforced.contains("the AppArmor profile cri-containerd.apparmor.d confines"));
    assert!(confined("bitzel-worker (complain)").obstacles().is_empty());
}

#[test]
fn names_the_selinux_domain() {
    let confined = Facts {
        security_label: "system_u:system_r:container_t:s0:c1,c2".to_owned(),
        ..facts()
    };
    assert!(only_obstacle(&confined).contains("allow container_t proc_t:filesystem mount"));
}

#[test]
fn counts_the_covers_of_proc() {
    let covered = Facts {
        mounts: format!(
            "{CONTAINER}104 101 0:53 / /proc/kcore rw - tmpfs tmpfs rw\n105 101 0:51 /sys /proc/sys ro - proc proc rw\n"
        ),
        ..facts()
    };
    assert!(only_obstacle(&covered).starts_with("/proc/kcore and other parts of /proc, 2 in all,"));
}

#[test]
fn refuses_a_cache_on_the_containers_file_system() {
    let outside = Facts {
        cache_directory: "/home/bitzel/worker".into(),
        ..facts()
    };
    assert!(
        only_obstacle(&outside).starts_with("/home/bitzel/worker lies on a file system of the type overlay")
    );
}

#[test]
fn this_machine_refuses_no_system_call() {
    // Without a seccomp profile: with one, the tests of the sandbox fail as well.
    assert_eq!(refused_system_calls(), Vec::<&str>::new());
}
