//! Measured use of resources by Actions.

use bitzel_proto::resource_usage;

use crate::harness::*;

/// Keeps 100 MiB and a processor busy for longer than the longest pause between two looks.
const BUSY: &str = "exec /usr/bin/python3 -c '
import os, time
kept = os.urandom(100 << 20)
with open(\"written\", \"wb\") as file:
    file.write(kept)
os.unlink(\"written\")
with open(\"half\", \"wb\") as file:
    file.write(kept[:50 << 20])
end = time.monotonic() + 2.5
while time.monotonic() < end:
    pass
'";

#[tokio::test(flavor = "multi_thread")]
async fn a_result_tells_what_its_action_used() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    // The second one runs in the launcher of the first.
    for name in ["first", "second"] {
        let script = format!("# {name}\n{BUSY}");
        let run = Run {
            script: &script,
            ..Run::default()
        };
        let action = worker.action(root, &run).await;
        let result = worker.execute(action).await.result.unwrap();
        assert_eq!(result.exit_code, 0);
        let usage = resource_usage::read(result.execution_metadata.as_ref().unwrap()).unwrap();
        let mebibytes = usage.peak_memory_bytes >> 20;
        assert!((100..300).contains(&mebibytes), "{name}: {mebibytes} MiB");
        assert!(
            (10_000..20_000_000).contains(&usage.cpu_micros),
            "{name}: {usage:?}"
        );
        let mebibytes = usage.disk_bytes >> 20;
        assert!((50..120).contains(&mebibytes), "{name}: {mebibytes} MiB on disk");
        assert_eq!(usage.memory_bound_bytes, 0);
    }
}
