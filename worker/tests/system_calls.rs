//! Refusal of system calls that lead out of a sandbox or that no build needs.

use crate::harness::*;

/// Program that tries each call and prints its name and its error, or 0.
const CALLS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static char zeros[256];
static void show(const char *name, long result) { printf("%s %d\n", name, result < 0 ? errno : 0); fflush(stdout); }
#define TRY(name, ...) show(#name, syscall(SYS_##name, __VA_ARGS__))
int main(void) {
    TRY(io_uring_setup, 1, zeros);
    TRY(io_uring_enter, -1, 0, 0, 0, 0, 0);
    TRY(io_uring_register, -1, 0, 0, 0);
    TRY(add_key, "user", "name", "secret", 6, -3);
    TRY(request_key, "user", "name", 0, -3);
    TRY(keyctl, 0, -3, 0);
    TRY(userfaultfd, 1);
    TRY(bpf, 0, zeros, sizeof zeros);
    TRY(perf_event_open, zeros, 0, -1, -1, 0);
    TRY(open_by_handle_at, -100, zeros, 0);
    TRY(fanotify_init, 0x200, 0);
    TRY(kexec_load, 0, 0, 0, 0);
    TRY(kexec_file_load, -1, -1, 0, 0, 0);
    TRY(init_module, 0, 0, "");
    TRY(finit_module, -1, "", 0);
    show("socket vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    show("socket packet", socket(AF_PACKET, SOCK_RAW, 0));
    show("socket unix", socket(AF_UNIX, SOCK_STREAM, 0));
    show("socket inet", socket(AF_INET, SOCK_STREAM, 0));
    int file = open("file", O_RDWR | O_CREAT, 0600);
    show("write lease", fcntl(file, F_SETLEASE, F_WRLCK));
    struct flock lock = {.l_type = F_WRLCK};
    show("lock", fcntl(file, F_SETLK, &lock));
    TRY(clone3, zeros, 64);
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    show("clone user", child);
    show("unshare user", unshare(CLONE_NEWUSER));
    child = fork();
    if (child == 0) _exit(0);
    show("fork", child);
    while (wait(0) > 0) {}
#ifdef __x86_64__
    show("x32 io_uring_setup", syscall(SYS_io_uring_setup | 0x40000000, 1, zeros));
    show("x32 getpid", syscall(SYS_getpid | 0x40000000));
#endif
}
"#;

/// The same in the 32-bit mode of the processor.
const COMPATIBLE_CALLS: &str = r#"
#include <stdio.h>
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
int main(void) {
    struct { const char *name; long number, a, b, c; } calls[] = {
        {"io_uring_setup", 425, 1}, {"add_key", 286}, {"request_key", 287}, {"keyctl", 288, 0, -3},
        {"userfaultfd", 374, 1}, {"bpf", 357}, {"perf_event_open", 336}, {"open_by_handle_at", 342, -100},
        {"fanotify_init", 338, 0x200}, {"kexec_load", 283}, {"init_module", 128}, {"finit_module", 350},
        {"socket vsock", 359, 40, 1}, {"socket packet", 359, 17, 3}, {"socketcall", 102, 1},
        {"fcntl", 55, 1, 1024, 1}, {"fcntl64", 221, 1, 1024, 1}, {"clone3", 435}, {"clone", 120, 0x10000011},
        {"unshare", 310, 0x10000000},
    };
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
        printf("%s %ld\n", calls[i].name, -call(calls[i].number, calls[i].a, calls[i].b, calls[i].c));
    printf("getpid %d\n", call(20, 0, 0, 0) > 0);
}
"#;

/// Compiles and runs a program and returns its output.
async fn printed(source: &str, platform: &[(&str, &str)]) -> String {
    let worker = Worker::new().await;
    let run = Run {
        script: "gcc -w -o calls calls.c; ./calls",
        platform,
        ..Run::default()
    };
    let result = worker.run(&directory([("calls.c", file(source))]), run).await;
    worker.stdout(&result).await
}

const ENOSYS: &str = "38";
const EPERM: &str = "1";

#[tokio::test]
async fn f10_refuses_calls_that_no_build_needs() {
    let mut expected: Vec<_> = ["setup", "enter", "register"]
        .map(|call| format!("io_uring_{call} {ENOSYS}"))
        .into();
    let refused = [
        "add_key",
        "request_key",
        "keyctl",
        "userfaultfd",
        "bpf",
        "perf_event_open",
        "open_by_handle_at",
        "fanotify_init",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "socket vsock",
        "socket packet",
    ];
    expected.extend(refused.map(|call| format!("{call} {EPERM}")));
    expected.extend(["socket unix 0".into(), "socket inet 0".into()]);
    expected.extend([format!("write lease {EPERM}"), "lock 0".into()]);
    expected.push(format!("clone3 {ENOSYS}"));
    expected.extend(["clone user", "unshare user"].map(|call| format!("{call} {EPERM}")));
    expected.push("fork 0".into());
    if cfg!(target_arch = "x86_64") {
        expected.extend(["io_uring_setup", "getpid"].map(|call| format!("x32 {call} {ENOSYS}")));
    }
    let printed = printed(CALLS, &[]).await;
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn f10_user_namespaces_need_a_platform_property() {
    let printed = printed(CALLS, USER_NAMESPACES).await;
    for line in ["clone user 0", "unshare user 0", "fork 0"] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}: {printed}"
        );
    }
    // The other calls are still refused.
    assert!(
        printed.contains(&format!("io_uring_setup {ENOSYS}\n")),
        "{printed}"
    );
    assert!(printed.contains(&format!("keyctl {EPERM}\n")), "{printed}");
    assert!(!printed.contains(&format!("clone3 {ENOSYS}\n")), "{printed}");
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn f10_the_same_rules_hold_for_32_bit_programs() {
    let worker = Worker::new().await;
    let run = Run {
        script: "gcc -w -o calls calls.c; ./calls || echo ended with $?",
        ..Run::default()
    };
    let tree = directory([("calls.c", file(COMPATIBLE_CALLS))]);
    let result = worker.run(&tree, run).await;
    let printed = worker.stdout(&result).await;
    if printed == "ended with 139\n" {
        println!("SKIPPED: f10_the_same_rules_hold_for_32_bit_programs: this kernel runs no 32-bit programs");
        return;
    }
    for line in printed.lines() {
        let expected = match line.rsplit_once(' ').unwrap().0 {
            "io_uring_setup" | "clone3" => ENOSYS,
            // It is allowed.
            "getpid" => "1",
            _ => EPERM,
        };
        assert!(line.ends_with(&format!(" {expected}")), "{line}");
    }
    assert_eq!(printed.lines().count(), 21);
}
