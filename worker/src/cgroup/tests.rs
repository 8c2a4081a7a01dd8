use super::*;

fn bounds() -> Bounds {
    Bounds {
        memory_bytes: 64 << 20,
        processes: 20,
        ..Bounds::default()
    }
}

#[test]
fn writes_the_limits_and_reads_the_events() {
    let directory = tempfile::tempdir().unwrap();
    // Ordinary files in place of the kernel's, which are there as soon as the directory is.
    let path = |name: &str| directory.path().join(name);
    fs::write(path("memory.events"), "low 0\nmax 7\noom 2\noom_kill 3\n").unwrap();
    fs::write(path("pids.events"), "max 5\n").unwrap();
    fs::write(path("io.bfq.weight"), "100\n").unwrap();
    let mut cgroup = Cgroup {
        directory: directory.path().to_owned(),
        files: Arc::new(CgroupFiles::open(directory.path())),
        memory_events: None,
        pids_events: None,
    };
    let controllers = Controllers {
        memory: true,
        pids: true,
        cpu: true,
        io: true,
    };
    cgroup.limit(controllers, &bounds()).unwrap();
    let written = |name| fs::read_to_string(path(name)).unwrap();
    assert_eq!(written("memory.max"), (64 << 20).to_string());
    assert_eq!(written("memory.oom.group"), "1");
    assert_eq!(written("memory.swap.max"), "0");
    assert_eq!(written("pids.max"), "28");
    assert_eq!(written("cpu.weight"), "100");
    // Only the file that the kernel has.
    assert_eq!(written("io.bfq.weight"), "default 100");
    assert!(!path("io.weight").exists());
    assert!(cgroup.shares_disks());
    let expected = CgroupEvents {
        killed: 3,
        out_of_memory: 2,
        refused: 5,
    };
    assert_eq!(cgroup.events(), expected);
    fs::write(path("pids.events"), "max 6\n").unwrap();
    assert_eq!(cgroup.events().refused, 6);
}

#[test]
fn only_its_own_limit_is_the_fault_of_an_action() {
    let events = |killed, out_of_memory, refused| CgroupEvents {
        killed,
        out_of_memory,
        refused,
    };
    let before = events(3, 2, 5);
    let cause = |after: CgroupEvents| after.cause_of_failure(before, &bounds());
    assert!(cause(before).is_none());
    let bound = |after| match cause(after) {
        Some(Error::BoundReached(reached)) => reached.bound,
        other => panic!("{other:?}"),
    };
    assert_eq!(bound(events(4, 3, 5)), Bound::Memory);
    assert_eq!(bound(events(3, 2, 6)), Bound::Processes);
    // A process was killed, and this group was not at its limit.
    let error = cause(events(5, 2, 6)).unwrap();
    assert!(error.is_exhaustion(), "{error}");
}

#[test]
fn a_control_group_holds_a_process_until_it_ends() {
    let cgroups = match Cgroups::open(&bounds()) {
        Ok(cgroups) => cgroups,
        Err(reason) => {
            println!("SKIPPED: a_control_group_holds_a_process_until_it_ends: {reason}");
            return;
        }
    };
    let cgroup = cgroups.create().unwrap();
    let mut process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    cgroup.admit(process.id()).unwrap();
    let group = fs::read_to_string(format!("/proc/{}/cgroup", process.id())).unwrap();
    let name = cgroup.directory.file_name().unwrap().to_str().unwrap();
    assert!(group.contains(name), "{group}");
    assert_eq!(cgroup.events(), CgroupEvents::default());
    process.kill().unwrap();
    process.wait().unwrap();
    let directory = cgroup.directory.clone();
    drop(cgroup);
    assert!(!directory.exists());
}

/// Runs a shell command in a group of its own, and returns what the group has counted.
fn run(cgroups: &Cgroups, script: &str) -> (std::process::ExitStatus, CgroupEvents) {
    let cgroup = cgroups.create().unwrap();
    // It waits until it is in the group.
    let mut shell = std::process::Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    cgroup.admit(shell.id()).unwrap();
    drop(shell.stdin.take());
    let status = shell.wait().unwrap();
    let events = cgroup.events();
    // What the shell left.
    let _ = fs::write(cgroup.directory.join("cgroup.kill"), "1");
    (status, events)
}

#[test]
fn f7_the_kernel_enforces_memory_and_processes() {
    let cgroups = match Cgroups::open(&bounds()) {
        Ok(cgroups) => cgroups,
        Err(reason) => {
            println!("SKIPPED: f7_the_kernel_enforces_memory_and_processes: {reason}");
            return;
        }
    };
    let controllers = cgroups.controllers();
    // `tail` keeps a line of any length.
    let (status, events) = run(&cgroups, "head -c 200M /dev/zero | tail; echo survived");
    assert_eq!(
        controllers.memory,
        events.killed > 0 && events.out_of_memory > 0 && !status.success(),
        "{events:?}"
    );
    let (_, events) = run(&cgroups, "for i in $(seq 60); do sleep 1000 & done 2> /dev/null");
    assert_eq!(controllers.pids, events.refused > 0, "{events:?}");
    let (status, events) = run(&cgroups, "true");
    assert!(status.success());
    assert_eq!(events, CgroupEvents::default());
}

/// A group in a hierarchy of version 2 that is mounted here, even without controllers.
fn group_without_controllers() -> Option<Cgroup> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').skip(1));
    let mount = mounts.find_map(|mut fields| {
        let target = fields.next()?;
        (fields.next() == Some("cgroup2")).then_some(target)
    })?;
    let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = Path::new(mount).join(format!("{PREFIX}{}-{number}", std::process::id()));
    fs::create_dir(&directory).ok()?;
    Some(Cgroup {
        files: Arc::new(CgroupFiles::open(&directory)),
        directory,
        memory_events: None,
        pids_events: None,
    })
}

#[test]
fn the_end_of_a_group_kills_what_is_left_in_it() {
    let Some(cgroup) = group_without_controllers() else {
        println!("SKIPPED: the_end_of_a_group_kills_what_is_left_in_it: no cgroup can be made");
        return;
    };
    let directory = cgroup.directory.clone();
    let mut processes: Vec<_> = (0..20)
        .map(|_| {
            let process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            cgroup.admit(process.id()).unwrap();
            process
        })
        .collect();
    cgroup.end();
    assert!(!directory.exists(), "{}", directory.display());
    for process in &mut processes {
        assert!(!process.wait().unwrap().success());
    }
}
