//! Limits that the kernel counts for the worker's user or for the machine: an Action that takes all that it can leaves
//! others their share. What is not kept apart is in `docs/decisions/0049-workers-and-actions-are-kept-apart.md`.

use crate::harness::*;

/// Program that takes as much of something as its second argument says, or as it gets, and prints how much that is. As
/// `hog` it then creates the file `full` and keeps it all.
const TAKER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>
static int watches;
static int inotify_instance(long n) { return inotify_init1(0); }
static int inotify_watch(long n) {
    char path[64];
    sprintf(path, "/tmp/%ld", n);
    close(open(path, O_CREAT | O_RDWR, 0600));
    return inotify_add_watch(watches, path, IN_MODIFY);
}
static int pending_signal(long n) { return sigqueue(getpid(), SIGRTMIN, (union sigval){0}); }
static int message_queue(long n) {
    char name[32];
    sprintf(name, "/%ld", n);
    struct mq_attr attributes = {.mq_maxmsg = 10, .mq_msgsize = 8192};
    return mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
}
static int pseudo_terminal(long n) { return open("/dev/ptmx", O_RDWR | O_NOCTTY); }
static int mount_namespace(long n) {
    int namespace = unshare(n == 0 ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS);
    return namespace < 0 ? namespace : open("/proc/self/ns/mnt", O_RDONLY);
}
#define LIMIT(name) {#name, name}
static struct { const char *name; int (*take)(long); } limits[] = {
    LIMIT(inotify_instance), LIMIT(inotify_watch), LIMIT(pending_signal), LIMIT(message_queue),
    LIMIT(pseudo_terminal), LIMIT(mount_namespace),
};
int main(int count, char **arguments) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, 0);
    watches = inotify_init1(0);
    for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++) {
        if (strcmp(limits[i].name, arguments[2]) != 0) continue;
        long wanted = atol(arguments[3]), taken = 0;
        while (taken < wanted && limits[i].take(taken) >= 0) taken++;
        printf("%ld\n", taken);
        fflush(stdout);
    }
    if (strcmp(arguments[1], "hog") == 0) {
        close(open("full", O_CREAT | O_RDWR, 0600));
        for (;;) pause();
    }
}
"#;

/// Runs an Action that takes all, and another one that wants a little while the first one keeps that.
async fn assert_kept_apart(limit: &str, most: u64, wanted: u64) {
    let worker = Worker::new().await;
    let tree = directory([("taker.c", file(TAKER))]);
    let root = worker.put_tree(&tree).await;
    let script = |kind: &str, number: u64| {
        format!("gcc -w -o taker taker.c -lrt; exec ./taker {kind} {limit} {number} > taken")
    };
    let hog = script("hog", most);
    let hog = Run {
        script: &hog,
        outputs: &["taken"],
        platform: USER_NAMESPACES,
        ..Run::default()
    };
    let (request, mut stages) = Worker::observed_request(worker.action(root, &hog).await);
    let cancellation = request.cancellation.clone();
    let probe = async {
        stages.recv().await.unwrap();
        let full = created_by_command(&worker, "full").await;
        let taken = std::fs::read_to_string(full.with_file_name("taken")).unwrap();
        let script = script("probe", wanted);
        let run = Run {
            script: &script,
            outputs: &["taken"],
            platform: USER_NAMESPACES,
            ..Run::default()
        };
        let response = worker.execute(worker.action(root, &run).await).await;
        let result = worker.succeeded(response).await;
        (
            taken.trim().parse::<u64>().unwrap(),
            worker.output(&result, "taken").await,
        )
    };
    let hog = worker.executor().execute(request);
    tokio::pin!(hog);
    let (taken, probed) = tokio::select! {
        response = &mut hog => panic!("the first Action ended: {response:?}"),
        taken = probe => taken,
    };
    cancellation.cancel();
    hog.await;
    assert!(
        (wanted..most).contains(&taken),
        "the first Action took {taken} of {limit}"
    );
    assert_eq!(probed, format!("{wanted}\n"), "after {taken} of {limit}");
}

#[tokio::test]
async fn f18_inotify_instances_are_kept_apart() {
    assert_kept_apart("inotify_instance", 1_000, 10).await;
}

#[tokio::test]
async fn f18_inotify_watches_are_kept_apart() {
    assert_kept_apart("inotify_watch", 1_000_000, 1_000).await;
}

#[tokio::test]
async fn f18_pending_signals_are_kept_apart() {
    assert_kept_apart("pending_signal", 1_000_000, 100).await;
}

#[tokio::test]
async fn f18_message_queues_are_kept_apart() {
    assert_kept_apart("message_queue", 1_000, 1).await;
}

#[tokio::test]
async fn f18_terminals_are_kept_apart() {
    assert_kept_apart("pseudo_terminal", 10_000, 10).await;
}

#[tokio::test]
async fn f18_mount_namespaces_are_kept_apart() {
    assert_kept_apart("mount_namespace", 100_000, 10).await;
}
