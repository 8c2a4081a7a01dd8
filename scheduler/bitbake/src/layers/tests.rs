use super::*;

fn layer(path: &Path, collections: &[&str]) -> Layer {
    fs::create_dir_all(path).unwrap();
    Layer {
        path: path.to_owned(),
        collections: collections.iter().map(|&name| name.to_owned()).collect(),
    }
}

#[test]
fn a_core_checkout_is_whole_and_named_after_its_first_layer() {
    let directory = tempfile::tempdir().unwrap();
    let checkout = directory.path().canonicalize().unwrap().join("some-name");
    let layers = [
        layer(&checkout.join("meta"), &["core"]),
        layer(&checkout.join("meta-skeleton"), &["skel"]),
    ];
    fs::write(checkout.join("oe-init-build-env"), "").unwrap();
    let (groups, places) = group_layers(&layers).unwrap();
    assert_eq!(places, ["layers/core/meta", "layers/core/meta-skeleton"]);
    assert_eq!(groups.len(), 1);
    assert_eq!(
        groups[0].directories(),
        [(checkout.as_path(), "layers/core".to_owned())]
    );
}

#[test]
fn of_another_checkout_only_the_layers_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let checkout = directory.path().canonicalize().unwrap().join("checkout");
    let layers = [layer(&checkout.join("tests/layer"), &["demo"])];
    fs::create_dir(checkout.join(".git")).unwrap();
    let (groups, places) = group_layers(&layers).unwrap();
    assert_eq!(places, ["layers/demo/tests/layer"]);
    let expected = checkout.join("tests/layer");
    assert_eq!(
        groups[0].directories(),
        [(expected.as_path(), "layers/demo/tests/layer".to_owned())]
    );
}

#[test]
fn a_layer_outside_any_checkout_stands_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (_, places) = group_layers(&[layer(&directory.path().join("meta-x"), &[])]).unwrap();
    assert_eq!(places, ["layers/meta-x"]);
}

#[test]
fn two_checkouts_of_one_name_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let layers = [
        layer(&directory.path().join("a"), &["x"]),
        layer(&directory.path().join("b"), &["x"]),
    ];
    let error = group_layers(&layers).unwrap_err();
    assert!(matches!(error, FrontEndError::LayerNameClash { name, .. } if name == "x"));
}

#[test]
fn build_directories_and_nested_checkouts_are_foreign() {
    let directory = tempfile::tempdir().unwrap();
    let (build, nested, plain) = (
        directory.path().join("build"),
        directory.path().join("nested"),
        directory.path().join("plain"),
    );
    fs::create_dir_all(build.join("conf")).unwrap();
    fs::write(build.join("conf/bblayers.conf"), "").unwrap();
    fs::create_dir_all(nested.join(".git")).unwrap();
    fs::create_dir_all(&plain).unwrap();
    assert!(is_foreign(&build) && is_foreign(&nested) && !is_foreign(&plain));
}
