use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn only_listed_variables_pass() {
    let user = environment(&[
        ("BB_ENV_PASSTHROUGH_ADDITIONS", "MACHINE DISTRO SSH_AUTH_SOCK"),
        ("MACHINE", "qemuarm"),
        ("SSH_AUTH_SOCK", "/tmp/agent"),
        ("SECRET", "x"),
    ]);
    assert_eq!(
        passed_through(&user),
        environment(&[
            ("BB_ENV_PASSTHROUGH_ADDITIONS", "MACHINE"),
            ("MACHINE", "qemuarm")
        ])
    );
}

#[test]
fn without_a_list_nothing_passes() {
    assert!(passed_through(&environment(&[("MACHINE", "qemuarm")])).is_empty());
}
