use super::*;

fn read(text: &str) -> Result<Configuration, CommandError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bitzel.toml");
    std::fs::write(&path, text).unwrap();
    Configuration::read(&path)
}

#[test]
fn the_example_of_the_documentation_can_be_used() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let example = text
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let configuration = read(example).unwrap();
    assert_eq!(
        configuration.listen.http.map(|address| address.port()),
        Some(8080)
    );
    assert_eq!(
        configuration.summary(),
        "stores: blobs in tiered(disk, deadline(s3)), results in tiered(disk, deadline(s3))\n\
         execution: yes\nlets in: as [tls] and [access] say"
    );
}

#[test]
fn everything_that_makes_no_sense_is_told_at_once() {
    let text = "[blobs.disk]\ndirectory = \"d\"\nsize = \"1GiB\"\n[actions.verifying.inner.disk]\ndirectory = \"d\"\n";
    let error = format!("{:?}", read(text).unwrap_err());
    for expected in [
        "bitzel.toml:5: actions.verifying.inner.disk.directory: d is the directory of another store too",
        "bitzel.toml: actions.verifying: this kind is for blobs only",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    let error = format!("{:?}", read("[chunks]\naverage_size = \"48KiB\"\n").unwrap_err());
    assert!(
        error.contains("bitzel.toml:2: chunks.average_size: chunks of 49152 bytes are not possible"),
        "{error}"
    );
    let error = format!("{:?}", read("[blobs.memory]\n").unwrap_err());
    assert!(error.contains("[blobs] and [actions] go together"), "{error}");
}

#[test]
fn what_cannot_be_read_in_one_table_does_not_hide_the_rest() {
    let text = "\
[listen]
grpc = \"everywhere\"
[execution]
jobs = \"two\"
[blobs.tiered.fast.disk]
directory = \"d\"
size = \"lots\"
[blobs.tiered.slow.memory]
[actions.deadline]
call = \"soon\"
inner.disk.directory = \"d\"
[limits]
connections = -1
[chunks]
average_size = \"48KiB\"
[listne]
";
    let error = format!("{:?}", read(text).unwrap_err()).replace("\\\"", "\"");
    for expected in [
        "bitzel.toml:2: listen.grpc: expected an address with a port, for example \"0.0.0.0:8980\"",
        "bitzel.toml:4: execution.jobs: invalid type: string \"two\", expected a whole number, for example 8",
        "bitzel.toml:7: blobs.tiered.fast.disk.size: invalid value: string \"lots\", expected a size, for example \"200GiB\"",
        "bitzel.toml:10: actions.deadline.call: invalid value: string \"soon\", expected a duration, for example \"30s\"",
        "bitzel.toml:13: limits.connections: invalid value: integer `-1`, expected a whole number, for example 8",
        "bitzel.toml:15: chunks.average_size: chunks of 49152 bytes are not possible",
        "bitzel.toml:16: listne: there is no such table; there are listen, execution",
    ] {
        assert!(error.contains(expected), "{expected}\n{error}");
    }
    let error = format!(
        "{:?}",
        read("[blobs.disk]\nsise = \"1GiB\"\n[actions.memory]\n").unwrap_err()
    );
    assert!(
        error.contains("bitzel.toml:2: blobs.disk.sise: unknown field `sise`, expected one of `directory`"),
        "{error}"
    );
    let error = format!("{:?}", read("[blobs\n[actions.memory]\nx = \n").unwrap_err());
    for line in ["bitzel.toml:1: this is no TOML", "bitzel.toml:3: this is no TOML"] {
        assert!(error.contains(line), "{error}");
    }
}
