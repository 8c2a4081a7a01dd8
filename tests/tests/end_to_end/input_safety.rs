//! A task that writes to its inputs.

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

/// Damages the component where it is staged and, through it, anything that shares its inodes.
const VANDAL: &str = r#"
LICENSE = "MIT"
DEPENDS = "component"
do_compile() {
	for directory in ${RECIPE_SYSROOT}${includedir} ${COMPONENTS_DIR}/component${includedir}; do
		: > $directory/truncated || true
		echo more >> $directory/appended || true
		printf 'X' | dd of=$directory/replaced conv=notrunc bs=1 seek=3 || true
		chmod 0600 $directory/changed-mode || true
	done
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
fn a_task_that_writes_to_its_inputs_changes_nothing_for_other_tasks() {
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
