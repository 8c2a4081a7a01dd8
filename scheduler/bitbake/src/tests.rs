//! Tests of the whole front end with real BitBake on a layer of a few lines. `BITZEL_TEST_BITBAKE` names the directory
//! that holds the package `bb`.

use bitzel_proto::graph::Task;

use super::*;

const BITBAKE_CONF: &str = r#"
PN = "${@bb.parse.vars_from_file(d.getVar('FILE', False), d)[0] or 'defaultpkgname'}"
PV = "${@bb.parse.vars_from_file(d.getVar('FILE', False), d)[1] or '1.0'}"
PF = "${PN}-${PV}"
TMPDIR = "${TOPDIR}/tmp"
WORKDIR = "${TMPDIR}/work/${PF}"
T = "${WORKDIR}/temp"
STAMP = "${TMPDIR}/stamps/${PF}"
PROVIDES:prepend = "${PN} "
DEPENDS ?= ""
BB_BASEHASH_IGNORE_VARS = "TMPDIR FILE FILE_DIRNAME PATH PWD HOME USER LOGNAME SHELL TOPDIR DL_DIR"
require conf/local.conf
"#;

const BASE_CLASS: &str = r#"
addtask configure
do_configure() {
    :
}
addtask build after do_configure
do_build[noexec] = "1"
do_build() {
    :
}
do_configure[deptask] = "do_configure"
"#;

/// A build directory and one layer with the recipes `low`, and `high`, which depends on it.
struct Workspace {
    directory: tempfile::TempDir,
    layer: PathBuf,
}

impl Workspace {
    fn new(layer_name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join(layer_name);
        let workspace = Self { directory, layer };
        workspace.write(
            "conf/layer.conf",
            "BBPATH .= \":${LAYERDIR}\"\nBBFILES += \"${LAYERDIR}/*.bb\"\nBBFILE_COLLECTIONS += \"small\"\n\
             BBFILE_PATTERN_small = \"^${LAYERDIR}/\"\nLAYERSERIES_CORENAMES = \"small\"\n\
             LAYERSERIES_COMPAT_small = \"small\"\n",
        );
        workspace.write("conf/bitbake.conf", BITBAKE_CONF);
        workspace.write("classes/base.bbclass", BASE_CLASS);
        workspace.write("low_1.0.bb", "do_configure() {\n    echo low\n}\n");
        workspace.write("high_1.0.bb", "DEPENDS = \"low\"\n");
        let conf = workspace.build_directory().join("conf");
        fs::create_dir_all(&conf).unwrap();
        let bblayers = format!(
            "BBPATH = \"${{TOPDIR}}\"\nBBLAYERS = \"{}\"\n",
            workspace.layer.display()
        );
        fs::write(conf.join("bblayers.conf"), bblayers).unwrap();
        fs::write(conf.join("local.conf"), "DL_DIR = \"${TOPDIR}/../sources\"\n").unwrap();
        workspace
    }

    fn write(&self, name: &str, contents: &str) {
        let path = self.layer.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn build_directory(&self) -> PathBuf {
        self.directory.path().join("build")
    }

    fn config(&self) -> FrontEndConfig {
        let bitbake = std::env::var_os("BITZEL_TEST_BITBAKE")
            .expect("BITZEL_TEST_BITBAKE must name the directory that holds BitBake's package bb");
        let mut config = FrontEndConfig::new(self.build_directory(), self.directory.path().join("cache"));
        config.bitbake = Some(bitbake.into());
        config
            .environment
            .insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
        config
    }

    async fn export(&self, target: &str) -> Result<Export, FrontEndError> {
        let request = ExportRequest {
            targets: vec![target.to_owned()],
            ..ExportRequest::default()
        };
        export(&self.config(), &request).await
    }
}

fn task<'g>(graph: &'g TaskGraph, recipe: &str, name: &str) -> &'g Task {
    graph
        .tasks
        .iter()
        .find(|task| task.name == name && graph.recipes[task.recipe as usize].package_name == recipe)
        .unwrap()
}

#[tokio::test]
async fn a_changed_recipe_changes_the_signatures_of_its_dependents() {
    let workspace = Workspace::new("layer");
    let first = workspace.export("high").await.unwrap();
    assert!(!first.cached);
    assert_eq!(first.graph.tasks.len(), 3);
    assert!(first.metadata.files.values().all(|path| path.is_file()));
    let second = workspace.export("high").await.unwrap();
    assert!(second.cached);
    assert_eq!(second.graph, first.graph);
    assert_eq!(second.metadata.root, first.metadata.root);

    workspace.write("low_1.0.bb", "do_configure() {\n    echo other\n}\n");
    let third = workspace.export("high").await.unwrap();
    assert!(!third.cached);
    for recipe in ["low", "high"] {
        let (before, after) = (
            task(&first.graph, recipe, "do_configure"),
            task(&third.graph, recipe, "do_configure"),
        );
        assert_ne!(before.taskhash, after.taskhash, "{recipe}");
        assert_eq!(before.basehash == after.basehash, recipe == "high");
    }
}

#[tokio::test]
async fn the_same_metadata_elsewhere_gives_the_same_graph() {
    let (one, two) = (Workspace::new("layer"), Workspace::new("another-name"));
    let (one, two) = (
        one.export("high").await.unwrap(),
        two.export("high").await.unwrap(),
    );
    // With the snapshots' digests in it.
    assert_eq!(one.graph, two.graph);
    assert_eq!(one.metadata.root, two.metadata.root);
}

#[tokio::test]
async fn targets_and_errors_are_those_of_bitbake() {
    let workspace = Workspace::new("layer");
    let one_task = workspace.export("low:do_configure").await.unwrap();
    assert_eq!(one_task.graph.tasks.len(), 1);
    let error = workspace.export("hihg").await.unwrap_err();
    let FrontEndError::BitBake { messages } = error else {
        panic!("{error}")
    };
    assert!(messages.contains("Nothing PROVIDES 'hihg'"), "{messages}");
    workspace.write("low_1.0.bb", "this is no recipe\n");
    let error = workspace.export("high").await.unwrap_err();
    assert!(error.to_string().contains("low_1.0.bb"), "{error}");
}

#[tokio::test]
async fn present_sources_are_looked_up_every_time() {
    let workspace = Workspace::new("layer");
    workspace.write("low_1.0.bb", "SRC_URI = \"https://example.org/low-1.0.tar.gz\"\n");
    let sources = workspace.directory.path().join("sources");
    let present = |export: &Export| {
        let mut sources = export.graph.recipes.iter().flat_map(|recipe| &recipe.sources);
        sources
            .next()
            .map(|source| (source.download_name.clone(), source.present))
    };
    let before = workspace.export("low").await.unwrap();
    assert_eq!(present(&before), Some(("low-1.0.tar.gz".to_owned(), false)));
    fs::create_dir(&sources).unwrap();
    fs::write(sources.join("low-1.0.tar.gz"), "").unwrap();
    let after = workspace.export("low").await.unwrap();
    assert!(after.cached);
    assert_eq!(present(&after), Some(("low-1.0.tar.gz".to_owned(), true)));
    assert_eq!(
        after.downloads.canonicalize().unwrap(),
        sources.canonicalize().unwrap()
    );
}

#[tokio::test]
async fn an_error_names_the_missing_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let config = FrontEndConfig::new(directory.path().to_owned(), directory.path().to_owned());
    let error = export(&config, &ExportRequest::default()).await.unwrap_err();
    assert!(error.to_string().contains("conf/bblayers.conf"));
}

#[tokio::test]
async fn a_graph_of_one_root_is_not_used_in_another() {
    let workspace = Workspace::new("layer");
    let request = ExportRequest {
        targets: vec!["low".to_owned()],
        ..ExportRequest::default()
    };
    let mut config = workspace.config();
    for (identity, cached) in [("debian-12", false), ("debian-13", false), ("debian-12", true)] {
        config.root.identity = identity.to_owned();
        let exported = export(&config, &request).await.unwrap();
        assert_eq!(exported.cached, cached, "{identity}");
    }
}

/// Copies Python and a shell of this machine, with their libraries, into the root `$1`.
const COPY_PYTHON: &str = r#"
cd /
cp --archive --parents usr/bin/python3* usr/lib/python3.* usr/bin/sh usr/bin/dash "$1" || test -e "$1/usr/bin/sh"
ldd usr/bin/python3 usr/bin/sh usr/lib/python3.*/lib-dynload/*.so | grep -o '/lib[^ ]*' | grep -v ':$' | sort -u |
while read -r library; do
    mkdir -p "$1/usr${library%/*}"
    cp --dereference "$library" "$1/usr$library"
done
"#;

/// A root with Python and a shell of this machine.
fn python_root(workspace: &Workspace) -> PathBuf {
    let root = workspace.directory.path().join("root");
    for name in ["etc", "opt", "usr", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    let copied = std::process::Command::new("sh")
        .args(["-euc", COPY_PYTHON, "sh"])
        .arg(&root)
        .status();
    assert!(copied.unwrap().success());
    root
}

#[tokio::test]
async fn parses_in_an_image_root() {
    let workspace = Workspace::new("layer");
    workspace.write(
        "low_1.0.bb",
        "MARKER = \"${@open('/opt/marker').read()}\"\ndo_configure[vardepvalue] = \"${MARKER}\"\n",
    );
    let root = python_root(&workspace);
    // A hostile root: a file would be made where it leads.
    std::os::unix::fs::symlink(
        workspace.directory.path().join("planted"),
        root.join("etc/resolv.conf"),
    )
    .unwrap();
    fs::write(root.join("opt/marker"), "one").unwrap();
    let mut config = workspace.config();
    // A client without Python.
    config.python = "/nonexistent".into();
    config.root.directory = Some(root.clone());
    let request = ExportRequest {
        targets: vec!["low".to_owned()],
        ..ExportRequest::default()
    };
    let mut hashes = vec![];
    for marker in ["one", "two"] {
        fs::write(root.join("opt/marker"), marker).unwrap();
        config.root.identity = marker.to_owned();
        let exported = export(&config, &request).await.unwrap();
        hashes.push(task(&exported.graph, "low", "do_configure").basehash.clone());
    }
    assert_ne!(hashes[0], hashes[1], "the metadata read the file of the root");
    assert!(!workspace.directory.path().join("planted").exists());
}

#[tokio::test]
async fn a_root_sees_no_secrets_while_the_configuration_is_read() {
    let workspace = Workspace::new("layer");
    let root = python_root(&workspace);
    let home = workspace.directory.path().join("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::write(home.join(".ssh/id"), "key").unwrap();
    // Python runs this file of the root before any other, and it tells what it sees.
    let spy = "\
import os, sys
processes = [name for name in os.listdir('/proc') if name.isdigit()]
interfaces = [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]
names = [name for name in ('MACHINE', 'SSH_AUTH_SOCK', 'TOKEN') if name in os.environ]
print(names, len(processes) < 4, interfaces, os.listdir(os.environ['HOME'] + '/.ssh'), file=sys.stderr)
os._exit(1)
";
    for entry in fs::read_dir(root.join("usr/lib")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("python3.") {
            let path = entry.path().join("sitecustomize.py");
            // On Debian a symlink to /etc.
            let _ = fs::remove_file(&path);
            fs::write(path, spy).unwrap();
        }
    }
    let mut config = workspace.config();
    config.root.directory = Some(root);
    for (name, value) in [
        ("HOME", home.to_str().unwrap()),
        ("TOKEN", "secret"),
        ("SSH_AUTH_SOCK", "/tmp/agent"),
        ("MACHINE", "qemuarm"),
        ("BB_ENV_PASSTHROUGH_ADDITIONS", "MACHINE SSH_AUTH_SOCK"),
    ] {
        config.environment.insert(name.to_owned(), value.to_owned());
    }
    let Err(FrontEndError::BitBake { messages }) = export(&config, &ExportRequest::default()).await else {
        panic!("the spy ends the run");
    };
    assert_eq!(messages, "['MACHINE'] True ['lo'] []\n");
}

/// Python of a recipe that writes where the exporter's files are.
const POISON: &str = r#"
python () {
    import os
    for directory in ("known", "out/snapshots", "out/recipes", "recipes", "bytecode", "exporter", "bitzel", "bitbake/lib/bb"):
        for name in ("evil", "0" * 64):
            try:
                with open(os.path.join("/work", directory, name), "w") as file:
                    file.write("evil")
            except OSError:
                pass
}
"#;

#[tokio::test]
async fn f20_metadata_cannot_change_what_other_builds_read() {
    let workspace = Workspace::new("layer");
    workspace.write("low_1.0.bb", POISON);
    workspace.export("low").await.unwrap();
    let cache = workspace.directory.path().join("cache");
    let mut snapshots = 0;
    for entry in fs::read_dir(cache.join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        let digest = bitzel_proto::DigestFunction::Sha256.digest(&fs::read(&path).unwrap());
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), digest.hash_hex());
        snapshots += 1;
    }
    assert!(snapshots > 2, "compiled Python, and the data stores");
    // All that is left of it is in the part of this build directory, among the cached recipes.
    let mut evil = vec![];
    let mut directories = vec![cache.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else if fs::read(entry.path()).unwrap() == b"evil" {
                evil.push(entry.path());
            }
        }
    }
    assert_eq!(evil.len(), 2, "{evil:?}");
    assert!(
        evil.iter()
            .all(|path| path.starts_with(cache.join("builds")) && path.parent().unwrap().ends_with("recipes"))
    );

    // And it does not live on without the layer.
    let conf = workspace.build_directory().join("conf/bblayers.conf");
    let other = Workspace::new("other");
    fs::copy(other.build_directory().join("conf/bblayers.conf"), conf).unwrap();
    workspace.export("high").await.unwrap();
    assert!(evil.iter().all(|path| !path.exists()));
}

#[tokio::test]
async fn f20_the_configuration_of_a_layer_runs_in_a_sandbox() {
    let workspace = Workspace::new("layer");
    let home = workspace.directory.path().join("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::write(home.join(".ssh/id"), "key").unwrap();
    let code = "import os; os.system('touch $HOME/planted'); \
                seen = [os.environ.get('TOKEN', ''), *os.listdir(os.environ['HOME'] + '/.ssh')]; \
                raise SystemExit('seen: ' + ' '.join(seen))";
    let configuration = workspace.layer.join("conf/layer.conf");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(
        &configuration,
        format!("{text}BBFILE_COLLECTIONS =. \"${{@exec({code:?})}}\"\n"),
    )
    .unwrap();
    let mut config = workspace.config();
    for (name, value) in [("HOME", home.to_str().unwrap()), ("TOKEN", "secret")] {
        config.environment.insert(name.to_owned(), value.to_owned());
    }
    let error = export(&config, &ExportRequest::default()).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("seen:"), "{message}");
    assert!(
        !message.contains("secret") && !message.contains("id"),
        "{message}"
    );
    assert!(!home.join("planted").exists());
}

#[tokio::test]
async fn f20_layers_choose_no_directories_of_the_user() {
    let workspace = Workspace::new("layer");
    let (own, secret) = (
        workspace.directory.path().join("own"),
        workspace.directory.path().join("secret"),
    );
    for directory in [&own, &secret] {
        fs::create_dir(directory).unwrap();
    }
    let configuration = workspace.layer.join("conf/layer.conf");
    let text = fs::read_to_string(&configuration).unwrap();
    let set = |path: &Path| {
        let names = ["DL_DIR", "SSTATE_DIR", "TMPDIR", "GPG_PATH", "EXTERNALSRC"];
        names
            .map(|name| format!("{name} = \"{}\"\n", path.display()))
            .concat()
            + &format!("SSTATE_MIRRORS = \"file://.* file://{}/PATH\"\n", path.display())
    };
    fs::write(&configuration, text + &set(&secret)).unwrap();
    workspace.write("conf/more.conf", &set(&secret));
    // A file of a layer that the user's own includes is none of the user's own.
    let local = format!("require conf/more.conf\nDL_DIR = \"{}\"\n", own.display());
    fs::write(workspace.build_directory().join("conf/local.conf"), local).unwrap();

    let config = workspace.config();
    let cache = ExportCache::open(&config.cache_directory, &workspace.build_directory(), "root")
        .await
        .unwrap();
    let python = PythonFiles::install(&config.cache_directory).unwrap();
    let library = bitbake::find(&config).await.unwrap();
    let exporter = Exporter {
        config: &config,
        cache: &cache,
        python: &python,
        library: &library,
        modules: &[],
    };
    let description = exporter.describe(&workspace.build_directory()).await.unwrap();
    assert_eq!(description.layers[0].collections, ["small"]);
    assert_eq!(description.downloads, own);
    let all = format!("{description:?}");
    assert!(!all.contains(secret.to_str().unwrap()), "{all}");
}
