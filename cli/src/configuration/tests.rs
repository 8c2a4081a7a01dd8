use super::*;

fn read(text: &str) -> Result<Configuration, CommandError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bitzel.toml");
    std::fs::write(&path, text).unwrap();
    Configuration::read(&path)
}

#[test]
fn accepts_the_example_of_the_documentation() {
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
         execution: yes\naccess: by [tls] and [access]"
    );
}

/// Asserts that the error of a file has these parts in this order.
#[track_caller]
fn assert_mistakes(text: &str, expected: &[&str]) {
    let error = read(text).unwrap_err().to_string();
    let mut rest = error.as_str();
    for part in expected {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("{part:?} is missing in\n{error}");
        };
        rest = after;
    }
}

#[test]
fn reports_all_values_that_cannot_work() {
    let text = "[blobs.disk]\ndirectory = \"d\"\nsize = \"1GiB\"\n[actions.verifying.inner.disk]\ndirectory = \"d\"\n";
    assert_mistakes(
        text,
        &[
            "actions.verifying: this kind is for blobs only",
            "bitzel.toml:4:10]",
            "leave it out here",
            "actions.verifying.inner.disk.directory: d is the directory of another store too",
            "bitzel.toml:5:13]",
            "directory = \"d\"",
        ],
    );
    assert_mistakes(
        "[chunks]\naverage_size = \"48KiB\"\n",
        &[
            "chunks.average_size: chunks of 49152 bytes are not possible",
            "bitzel.toml:2:",
        ],
    );
    assert_mistakes(
        "[blobs.memory]\n",
        &[
            "[blobs] and [actions] go together",
            "bitzel.toml:1:",
            "write both",
        ],
    );
}

#[test]
fn reports_the_mistakes_of_every_table() {
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
    assert_mistakes(
        text,
        &[
            "listen.grpc: invalid socket address syntax",
            "bitzel.toml:2:8]",
            "help: listen.grpc is an address with a port, for example \"0.0.0.0:8980\": Address for clients and workers",
            "execution.jobs: invalid type: string \"two\"",
            "bitzel.toml:4:8]",
            "help: execution.jobs is a whole number, for example 8: Maximum number of concurrent Actions",
            "blobs.tiered.fast.disk.size: invalid value: string \"lots\"",
            "bitzel.toml:7:8]",
            "is a size, for example \"200GiB\": Space that blobs may take on disk",
            "actions.deadline.call: invalid value: string \"soon\"",
            "bitzel.toml:10:8]",
            "is a duration, for example \"30s\": Limit of a call",
            "limits.connections: invalid value: integer `-1`",
            "bitzel.toml:13:15]",
            "is a whole number",
            "chunks.average_size: chunks of 49152 bytes are not possible",
            "bitzel.toml:15:",
            "listne: unknown table",
            "bitzel.toml:16:2]",
            "known tables: access, actions, blobs",
        ],
    );
}

#[test]
fn names_the_known_keys_when_one_is_unknown() {
    assert_mistakes(
        "[blobs.disk]\nsise = \"1GiB\"\n[actions.memory]\n",
        &[
            "blobs.disk.sise: unknown field `sise`, expected one of `directory`",
            "bitzel.toml:2:1]",
        ],
    );
    assert_mistakes(
        "[[access.rules]]\nallow = [\"read\"]\n[[access.rules]]\nallow = 1\n",
        &[
            "access.rules[1].allow: invalid type: integer `1`",
            "bitzel.toml:4:9]",
            "is a list",
        ],
    );
}

#[test]
fn reports_every_line_that_is_not_toml() {
    assert_mistakes(
        "[blobs\n[actions.memory]\nx = \n",
        &[
            "not valid TOML",
            "bitzel.toml:1:",
            "not valid TOML",
            "bitzel.toml:3:",
        ],
    );
}

#[test]
fn a_root_identity_is_a_plain_word() {
    let configuration = read("[execution]\nroot_identity = \"farm-2026-11\"\n").unwrap();
    let root_identity = configuration.execution.root_identity.unwrap();
    assert_eq!(root_identity.as_str(), "farm-2026-11");
    assert_mistakes(
        "[execution]\nroot_identity = \"two words\"\n",
        &[
            "execution.root_identity: \"two words\" is not a root identity",
            "bitzel.toml:2:17]",
        ],
    );
}

#[test]
fn tenants_are_groups_with_names_of_their_own() {
    let text = "[tenants]\n[[tenants.groups]]\nname = \"a\"\ninstances = [\"a\", \"a/*\"]\n";
    let configuration = read(text).unwrap();
    let tenants = configuration.tenants.as_ref().unwrap();
    let groups: Vec<_> = tenants.groups().collect();
    assert_eq!(groups, [("a", &["a".to_owned(), "a/*".to_owned()][..])]);
    let summary = configuration.summary();
    assert!(
        summary.ends_with("\ntenants: 1 in groups, and each other instance by itself"),
        "{summary}"
    );
    assert_mistakes(
        "[tenants]\ngroups = [{ name = \"\", instances = [\"x\"] }]\nkye = \"k\"\n",
        &["unknown field `kye`"],
    );
    let text = "[[tenants.groups]]\nname = \"a\"\ninstances = [\"a\"]\n[[tenants.groups]]\nname = \"a\"\ninstances = []\n";
    assert_mistakes(
        text,
        &[
            "tenants.groups[1].name: another group is called \"a\" too",
            "bitzel.toml:5:8]",
            "tenants.groups[1].instances: the group has no instances",
            "bitzel.toml:6:13]",
        ],
    );
}

#[test]
fn stores_and_groups_that_tenants_cannot_use_are_refused() {
    assert_mistakes(
        "[tenants]\n[blobs.metered]\nname = \"b\"\n[blobs.metered.inner.read_only.inner.memory]\n[actions.memory]\n",
        &[
            "tenants: the store of [blobs] is read-only",
            "leave [tenants] or read_only out",
        ],
    );
    assert_mistakes(
        "[[tenants.groups]]\nname = \"a/../b\"\ninstances = [\"a\"]\n",
        &["tenants.groups[0].name: instance name \"a/../b\": has the segment `.` or `..`"],
    );
}

#[test]
fn a_shared_journal_needs_an_address_a_store_and_no_slots() {
    assert_mistakes(
        "[execution]\njobs = 2\n[execution.journal]\nmedium = \"postgresql\"\n",
        &[
            "execution.jobs: schedulers that share a journal run no Actions themselves",
            "bitzel.toml:2:1]",
            "execution.journal.medium: the journal in PostgreSQL needs an address",
            "bitzel.toml:4:1]",
            "add [execution.journal.postgresql]",
            "execution.journal.medium: schedulers that share a journal need one store for all of them",
            "add [blobs] and [actions]",
        ],
    );
    assert_mistakes(
        "[execution.journal.postgresql]\nurl = \"postgresql://bitzel@db.example/bitzel\"\n",
        &["execution.journal.postgresql: PostgreSQL is not the medium of the journal"],
    );
}

#[test]
fn required_certificates_are_needed_between_schedulers_too() {
    let text = |keys: &str| {
        format!(
            "[execution.journal]\nmedium = \"postgresql\"\n\
             [execution.journal.postgresql]\nurl = \"host=/run/postgresql\"\n{keys}\
             [blobs.grpc]\nendpoint = \"grpc://store:8980\"\n[actions.grpc]\nendpoint = \"grpc://store:8980\"\n\
             [tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\nclient_ca = \"ca.pem\"\n\
             client_certificate_required = true\n"
        )
    };
    assert_mistakes(
        &text(""),
        &[
            "execution.journal.postgresql: the scheduler that leads would refuse the calls that the others forward",
            "set servers_certificate and servers_key",
        ],
    );
    assert_mistakes(
        &text("servers_key = \"a.key\"\n"),
        &["execution.journal.postgresql: servers_certificate and servers_key go together"],
    );
    read(&text(
        "servers_certificate = \"a.pem\"\nservers_key = \"a.key\"\n",
    ))
    .unwrap();
}

#[test]
fn a_journal_in_postgresql_is_read() {
    let text = |lease_time: &str| {
        format!(
            "[execution.journal]\nmedium = \"postgresql\"\n\
             [execution.journal.postgresql]\nurl = \"host=/run/postgresql\"\nlease_time = \"{lease_time}\"\n\
             [blobs.grpc]\nendpoint = \"grpc://store:8980\"\n[actions.grpc]\nendpoint = \"grpc://store:8980\"\n"
        )
    };
    let configuration = read(&text("2s")).unwrap();
    let postgresql = configuration.execution.journal.postgresql.unwrap();
    assert_eq!(postgresql.lease_time, std::time::Duration::from_secs(2));
    assert_mistakes(
        &text("1ms"),
        &[
            "execution.journal.postgresql.lease_time: the time of a lease is out of bounds",
            "bitzel.toml:5:1]",
        ],
    );
}
