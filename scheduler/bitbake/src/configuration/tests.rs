use super::*;

fn write_in(user_conf: &Path, conf: &Path) {
    let layers = [
        (PathBuf::from("/home/a/oe/meta"), "layers/core/meta".to_owned()),
        (
            PathBuf::from("/home/a/oe/meta-x"),
            "layers/core/meta-x".to_owned(),
        ),
    ];
    write(user_conf, conf, &layers, 0).unwrap();
}

#[test]
fn the_users_files_are_taken_and_paths_of_layers_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (user_conf, conf) = (directory.path().join("user"), directory.path().join("conf"));
    fs::create_dir_all(user_conf.join("multiconfig")).unwrap();
    let bblayers = "BBLAYERS ?= \"/home/a/oe/meta /home/a/oe/meta-x\"\n";
    fs::write(user_conf.join("bblayers.conf"), bblayers).unwrap();
    fs::write(user_conf.join("local.conf"), "MACHINE = \"x\"\n").unwrap();
    fs::write(user_conf.join("multiconfig/second.conf"), "").unwrap();
    fs::write(user_conf.join("templateconf.cfg"), "/home/a/templates").unwrap();
    write_in(&user_conf, &conf);
    let text = fs::read_to_string(conf.join("bblayers.conf")).unwrap();
    assert!(!text.contains("/home/a"), "{text}");
    assert!(
        text.ends_with("unset BBLAYERS\nBBLAYERS = \" /work/layers/core/meta /work/layers/core/meta-x\"\n")
    );
    assert_eq!(
        fs::read_to_string(conf.join("local.conf")).unwrap(),
        "MACHINE = \"x\"\n"
    );
    assert!(conf.join("multiconfig/second.conf").exists());
    assert!(!conf.join("templateconf.cfg").exists());
}

#[test]
fn removes_what_the_user_removed_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (user_conf, conf) = (directory.path().join("user"), directory.path().join("conf"));
    fs::create_dir_all(&user_conf).unwrap();
    fs::write(user_conf.join("bblayers.conf"), "").unwrap();
    fs::write(user_conf.join("auto.conf"), "").unwrap();
    write_in(&user_conf, &conf);
    let before = fs::metadata(conf.join("bblayers.conf"))
        .unwrap()
        .modified()
        .unwrap();
    fs::remove_file(user_conf.join("auto.conf")).unwrap();
    write_in(&user_conf, &conf);
    assert!(!conf.join("auto.conf").exists());
    assert_eq!(
        fs::metadata(conf.join("bblayers.conf"))
            .unwrap()
            .modified()
            .unwrap(),
        before
    );
}
