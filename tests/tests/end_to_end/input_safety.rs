//! Tasks that write to their inputs.

use bitzel_tests::Site;

const COMPONENT: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${includedir}
	for name in truncated appended replaced changed-mode; do
		echo original > ${D}${includedir}/$name
	done
}
"#;

/// Damages the component in its own sysroot and, without protection, everything that shares its inodes.
const VANDAL: &str = r#"
LICENSE = "MIT"
DEPENDS = "component"
do_compile() {
	directory=${RECIPE_SYSROOT}${includedir}
	: > $directory/truncated
	echo more >> $directory/appended
	printf 'X' | dd of=$directory/replaced conv=notrunc bs=1 seek=3
	chmod 0600 $directory/changed-mode
}
do_install() {
	install -d ${D}
}
"#;

/// Writes to the component in the shared directory, which is no output of this task.
const TRESPASSER: &str = r#"
LICENSE = "MIT"
DEPENDS = "component"
do_compile[depends] += "component:do_populate_sysroot"
do_compile() {
	echo more >> ${COMPONENTS_DIR}/component${includedir}/appended
}
do_install() {
	install -d ${D}
}
"#;

const READER: &str = r#"
LICENSE = "MIT"
DEPENDS = "component"
do_compile() {
	for name in truncated appended replaced changed-mode; do
		file=${RECIPE_SYSROOT}${includedir}/$name
		[ "$(cat $file)" = original ] || bbfatal "$name now holds: $(cat $file)"
		[ "$(stat -c %a $file)" = 644 ] || bbfatal "$name now has the mode $(stat -c %a $file)"
	done
}
do_install() {
	install -d ${D}
}
"#;

#[test]
fn a_write_to_an_input_changes_nothing_for_other_tasks() {
    let site = Site::empty();
    site.add_recipe("component", COMPONENT);
    site.add_recipe("vandal", VANDAL);
    site.add_recipe("reader", READER);
    let vandal = site.build(&["vandal"]).succeeded();
    assert!(vandal.tasks("ran").contains("vandal:do_compile"));
    let reader = site.build(&["reader"]).succeeded();
    assert!(reader.tasks("ran").contains("reader:do_compile"));
    assert!(
        reader
            .tasks("hit")
            .iter()
            .any(|task| task.starts_with("component:")),
        "{}",
        reader.text
    );
}

#[test]
fn an_undeclared_write_names_task_and_path() {
    let site = Site::empty();
    site.add_recipe("component", COMPONENT);
    site.add_recipe("trespasser", TRESPASSER);
    let report = site.build(&["trespasser"]).failed();
    report.assert_says(&[
        "trespasser:do_compile FAILED",
        "sysroots-components/component/usr/include/appended",
    ]);
}
