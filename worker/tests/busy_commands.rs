//! Commands that compute with many processes, beside the supervisor that watches them.

use tonic::Code;

use crate::harness::*;

/// Program that runs 100 processes, which compute and take up 5 MiB each, little by little. It ends by itself.
const BUSY_PROCESSES: &str = r"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    for (int process = 0; process < 100; process++) {
        if (fork() != 0) continue;
        for (int chunk = 0; chunk < 80; chunk++) {
            memset(malloc(64 << 10), chunk, 64 << 10);
            struct timespec used;
            do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
            while (used.tv_sec * 1000 + used.tv_nsec / 1000000 < chunk);
        }
        for (time_t end = time(0) + 10; time(0) < end;) {}
        _exit(0);
    }
    while (wait(0) > 0) {}
}
";

#[tokio::test(flavor = "multi_thread")]
async fn f18_busy_processes_do_not_starve_the_watch() {
    let worker = Worker::with(|config| config.bounds.memory_bytes = 64 << 20).await;
    let run = Run {
        script: "gcc -O1 -w -o busy busy.c; exec ./busy",
        ..Run::default()
    };
    let response = worker
        .respond(&directory([("busy.c", file(BUSY_PROCESSES))]), run)
        .await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
    let (_, used) = status.message.split_once("uses too much memory: ").unwrap();
    let (mebibytes, _) = used.split_once(" MiB").expect("less than a gibibyte");
    // Of 500 MiB.
    assert!(mebibytes.parse::<f64>().unwrap() < 128.0, "{}", status.message);
}

#[tokio::test]
async fn f18_a_command_weighs_as_one_session() {
    let worker = Worker::new().await;
    // Session and nice value of the supervisor and of the command, see proc_pid_stat(5).
    let run = Run {
        script: "cut -d ' ' -f 6,19 /proc/1/stat; cut -d ' ' -f 6,19 /proc/$$/stat; echo $$",
        ..Run::default()
    };
    let result = worker.run(&directory([]), run).await;
    let stdout = worker.stdout(&result).await;
    let numbers: Vec<i32> = stdout
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    let &[supervisor, supervisors_nice, session, nice, command] = &*numbers else {
        panic!("{stdout}")
    };
    assert_ne!(
        supervisor, session,
        "the kernel shares out processors among sessions"
    );
    assert_eq!(session, command, "the command leads its own");
    assert!(nice > supervisors_nice, "{stdout}");
}
