//! Sources of the programs that tool chains build.

use crate::harness::*;

const RUST_MANIFEST: &str = r#"
[package]
name = "program"
version = "0.1.0"
edition = "2021"
[workspace]
members = ["part"]
[dependencies]
part = { path = "part" }
"#;

const RUST_PART_MANIFEST: &str = r#"
[package]
name = "part"
version = "0.1.0"
edition = "2021"
[lib]
proc-macro = true
"#;

/// A macro that runs in the compiler.
const RUST_PART: &str = r#"
#[proc_macro]
pub fn threads(_: proc_macro::TokenStream) -> proc_macro::TokenStream { "4".parse().unwrap() }
"#;

const RUST_BUILD_SCRIPT: &str = r#"
fn main() {
    let path = std::path::Path::new(&std::env::var("OUT_DIR").unwrap()).join("generated.rs");
    std::fs::write(path, "const ORIGIN: &str = \"built by a script\";").unwrap();
}
"#;

const RUST_PROGRAM: &str = r#"
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
include!(concat!(env!("OUT_DIR"), "/generated.rs"));
fn count() -> usize {
    let counted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..part::threads!() {
            scope.spawn(|| for _ in 0..1000 { counted.fetch_add(1, Ordering::Relaxed); });
        }
    });
    counted.into_inner()
}
fn main() {
    let child = Command::new("echo").arg("hello").output().unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    println!("{ORIGIN}: {} threads counted {}, child said {}", part::threads!(), count(), said.trim());
}
#[test]
fn threads_count() { assert_eq!(count(), 4000); }
"#;

pub(super) fn rust() -> Node {
    let part = directory([
        ("Cargo.toml", plain_file(RUST_PART_MANIFEST)),
        ("src", directory([("lib.rs", plain_file(RUST_PART))])),
    ]);
    directory([
        ("Cargo.toml", plain_file(RUST_MANIFEST)),
        ("build.rs", plain_file(RUST_BUILD_SCRIPT)),
        ("part", part),
        ("src", directory([("main.rs", plain_file(RUST_PROGRAM))])),
    ])
}

const GO_PROGRAM: &str = r#"package main

// static int answer(void) { return 42; }
import "C"

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

func count() int64 {
	var counted atomic.Int64
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for j := 0; j < 1000; j++ {
				counted.Add(1)
			}
			runtime.GC()
		}()
	}
	group.Wait()
	return counted.Load()
}

func main() {
	child, err := exec.Command("echo", "hello").Output()
	if err != nil {
		panic(err)
	}
	said := strings.TrimSpace(string(child))
	fmt.Printf("C says %d, 8 routines counted %d, child said %s\n", C.answer(), count(), said)
}
"#;

const GO_TEST: &str = r#"package main

import "testing"

func TestCount(t *testing.T) {
	for i := 0; i < 4; i++ {
		t.Run("parallel", func(t *testing.T) {
			t.Parallel()
			if counted := count(); counted != 8000 {
				t.Fatal(counted)
			}
		})
	}
}
"#;

pub(super) fn go() -> Node {
    directory([
        ("go.mod", plain_file("module example.com/program\n\ngo 1.20\n")),
        ("main.go", plain_file(GO_PROGRAM)),
        ("main_test.go", plain_file(GO_TEST)),
    ])
}

const JAVA_PROGRAM: &str = r#"
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;

class Program {
    static final AtomicLong counted = new AtomicLong();

    static int count() {
        int length = 0;
        for (int i = 0; i < 1_000_000; i++) {
            byte[] garbage = new byte[i % 100];
            length += garbage.length;
            counted.incrementAndGet();
        }
        return length;
    }

    static String served() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            Thread answer = new Thread(() -> {
                try (Socket client = server.accept()) {
                    client.getOutputStream().write("hello".getBytes());
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            });
            answer.start();
            try (Socket client = new Socket(server.getInetAddress(), server.getLocalPort())) {
                return new String(client.getInputStream().readAllBytes());
            } finally {
                answer.join();
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        var pool = Executors.newFixedThreadPool(4);
        List<Future<Integer>> results = new ArrayList<>();
        for (int i = 0; i < 4; i++) results.add(pool.submit(Program::count));
        for (var result : results) result.get();
        pool.shutdown();
        System.gc();
        Process child = new ProcessBuilder("echo", "hello").start();
        String said = new String(child.getInputStream().readAllBytes()).trim();
        child.waitFor();
        System.out.println("compiled code and 4 threads counted " + counted + ", child said " + said
            + ", server said " + served());
    }
}
"#;

pub(super) fn java() -> Node {
    directory([("Program.java", plain_file(JAVA_PROGRAM))])
}

const NODE_PROGRAM: &str = r"
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { spawn, fork } = require('child_process');
const fs = require('fs/promises');
const net = require('net');
const { once } = require('events');

async function main() {
    const shared = new Int32Array(new SharedArrayBuffer(4));
    const workers = Array.from({ length: 4 }, () => new Worker(__filename, { workerData: shared }));
    await Promise.all(workers.map(worker => once(worker, 'exit')));
    console.log(`workers counted ${shared[0]}`);
    const child = spawn('echo', ['hello']);
    const [said] = await once(child.stdout, 'data');
    console.log(`spawned ${said.toString().trim()}`);
    const forked = fork(__filename, ['child']);
    const [message] = await once(forked, 'message');
    console.log(`forked ${message}`);
    const server = net.createServer(client => client.end('hello')).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const [greeting] = await once(net.connect(server.address().port, '127.0.0.1'), 'data');
    server.close();
    console.log(`server said ${greeting}`);
    await fs.copyFile(__filename, 'copy.js');
    const [entry] = (await fs.readdir('.')).filter(name => name == 'program.js');
    console.log(`read ${entry}`);
}

if (process.argv[2] == 'child') {
    process.send('hello', () => process.disconnect());
} else if (isMainThread) {
    main().catch(error => { console.error(error); process.exit(1); });
} else {
    for (let i = 0; i < 1000; i++) Atomics.add(workerData, 0, 1);
}
";

pub(super) fn node() -> Node {
    directory([("program.js", plain_file(NODE_PROGRAM))])
}

/// Parts of the program: their numbers add up to 120.
const PARTS: u32 = 16;

const MAKEFILE: &str = "
PARTS := $(patsubst %.c,%.o,$(sort $(wildcard part*.c)))
CFLAGS := -O2 -pipe
program: main.o $(PARTS)
\t$(CC) -o $@ $^
threads: threads.c
\t$(CC) -O2 -flto=auto -o $@ $< -pthread
";

const THREADS: &str = r#"
#include <pthread.h>
#include <stdio.h>
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int counted;
static void *count(void *unused) {
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&mutex);
        counted++;
        pthread_mutex_unlock(&mutex);
    }
    return unused;
}
int main(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) if (pthread_create(&threads[i], 0, count, 0)) return 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    printf("4 threads counted %d\n", counted);
}
"#;

pub(super) fn make() -> Node {
    let mut main = String::from("#include <stdio.h>\n");
    let mut sum = String::from("0");
    let Node::Directory(mut files, _) = directory([
        ("Makefile", plain_file(MAKEFILE)),
        ("threads.c", plain_file(THREADS)),
    ]) else {
        unreachable!("a directory")
    };
    for part in 0..PARTS {
        let source = format!("int part{part}(void) {{ return {part}; }}\n");
        files.insert(format!("part{part}.c"), plain_file(source));
        main += &format!("int part{part}(void);\n");
        sum += &format!(" + part{part}()");
    }
    main += &format!("int main(void) {{ printf(\"sum %d\\n\", {sum}); }}\n");
    files.insert("main.c".into(), plain_file(main));
    Node::Directory(files, None)
}

const LEAK: &str = r"
#include <stdlib.h>
static void *volatile kept;
int main(void) { kept = malloc(100); kept = 0; return 0; }
";

const RACE: &str = r"
#include <pthread.h>
static int counted;
static void *count(void *unused) {
    for (int i = 0; i < 100000; i++) counted++;
    return unused;
}
int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, count, 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
}
";

pub(super) fn sanitizers() -> Node {
    directory([("leak.c", plain_file(LEAK)), ("race.c", plain_file(RACE))])
}

const PYTHON_PROGRAM: &str = r#"
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory

def square(number):
    return number * number

def count(counter, lock):
    for _ in range(1000):
        with lock:
            counter.value += 1

def write(name, queue):
    memory = shared_memory.SharedMemory(name)
    memory.buf[:5] = b"hello"
    memory.close()
    queue.put(4)

def tried(method):
    context = multiprocessing.get_context(method)
    with context.Pool(4) as pool:
        squares = sum(pool.map(square, range(5)))
    counter, lock = context.Value("i", 0, lock=False), context.Lock()
    counters = [context.Process(target=count, args=(counter, lock)) for _ in range(4)]
    for process in counters:
        process.start()
    for process in counters:
        process.join()
    memory = shared_memory.SharedMemory(create=True, size=16)
    queue = context.Queue()
    writer = context.Process(target=write, args=(memory.name, queue))
    writer.start()
    received = queue.get()
    writer.join()
    shared = bytes(memory.buf[:5])
    memory.close()
    memory.unlink()
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        total = sum(executor.map(abs, [-1, -2, -3]))
    print(f"{method}: pool {squares}, counter {counter.value}, shared {shared}, queue {received}, executor {total}", flush=True)

if __name__ == "__main__":
    for method in ["fork", "spawn", "forkserver"]:
        tried(method)
"#;

pub(super) fn python() -> Node {
    directory([("program.py", plain_file(PYTHON_PROGRAM))])
}
