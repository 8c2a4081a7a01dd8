use super::*;

fn environment() -> Environment {
    Environment {
        platform: vec![
            ("ISA".to_owned(), "x86-64".to_owned()),
            ("OSFamily".to_owned(), "linux".to_owned()),
        ],
        root: TaskRoot::OfWorker("debian-12-aa".to_owned()),
        runner_version: "r1".to_owned(),
        bitbake_version: "2.19.0".to_owned(),
    }
}

fn recipe() -> Recipe {
    Recipe {
        work_directory: "build/tmp/work/zlib".to_owned(),
        ..Recipe::default()
    }
}

fn task(name: &str) -> Task {
    Task {
        name: name.to_owned(),
        ..Task::default()
    }
}

#[test]
fn everything_that_decides_a_result_is_in_the_key() {
    let base = signature_key(&environment(), &recipe(), &task("do_compile"), "hash");
    let mut keys = vec![
        signature_key(&environment(), &recipe(), &task("do_compile"), "other"),
        signature_key(&environment(), &recipe(), &task("do_install"), "hash"),
        signature_key(&environment(), &Recipe::default(), &task("do_compile"), "hash"),
        outputs_key(&environment(), &recipe(), &task("do_compile"), &base),
    ];
    for change in [
        |environment: &mut Environment| environment.platform[0].1 = "aarch64".to_owned(),
        |environment: &mut Environment| environment.root = TaskRoot::OfWorker("debian-13-bb".to_owned()),
        |environment: &mut Environment| environment.root = TaskRoot::Image(DIGEST_FUNCTION.digest(b"root")),
        |environment: &mut Environment| environment.runner_version = "r2".to_owned(),
        |environment: &mut Environment| environment.bitbake_version = "2.20.0".to_owned(),
    ] {
        let mut changed = environment();
        change(&mut changed);
        keys.push(signature_key(&changed, &recipe(), &task("do_compile"), "hash"));
    }
    assert!(keys.iter().all(|key| *key != base));
}

#[test]
fn results_of_one_root_are_not_found_by_another() {
    let other = Environment {
        root: TaskRoot::OfWorker("debian-13-bb".to_owned()),
        ..environment()
    };
    let (recipe, task) = (recipe(), task("do_compile"));
    let outputs = DIGEST_FUNCTION.digest(b"outputs");
    let keys = [environment(), other].map(|environment| {
        [
            signature_key(&environment, &recipe, &task, "hash"),
            outputs_key(&environment, &recipe, &task, &outputs),
            last_run_key(&environment, &recipe, &task),
        ]
    });
    let [here, there] = keys;
    assert!(here.iter().zip(&there).all(|(here, there)| here != there));
}

#[test]
fn nothing_else_is_in_the_key() {
    let base = signature_key(&environment(), &recipe(), &task("do_compile"), "hash");
    let renamed = Recipe {
        key: "/work/elsewhere/zlib.bb".to_owned(),
        ..recipe()
    };
    let noisy = Task {
        basehash: "b".to_owned(),
        dependencies: vec![1],
        setscene: true,
        ..task("do_compile")
    };
    assert_eq!(signature_key(&environment(), &renamed, &noisy, "hash"), base);
}
