//! Imports of images.

use serde_json::{Value, json};

use super::*;

/// An OCI image layout on disk.
struct Image {
    directory: tempfile::TempDir,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", ROOT_DIGEST_FUNCTION.digest(bytes).hash_hex())
}

impl Image {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        fs::write(
            directory.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Self {
            directory,
            layers: vec![],
            diff_ids: vec![],
        }
    }

    fn blob(&self, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let path = self.directory.path().join("blobs").join(digest.replace(':', "/"));
        fs::write(path, bytes).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    }

    fn layer(mut self, layer: Tar, compress: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let bytes = layer.finish();
        self.diff_ids.push(sha256(&bytes));
        let blob = self.blob(&compress(&bytes));
        self.layers.push(blob);
        self
    }

    fn manifest(&self) -> Value {
        let configuration = json!({"rootfs": {"type": "layers", "diff_ids": self.diff_ids}});
        let configuration = self.blob(configuration.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": configuration, "layers": self.layers});
        let mut descriptor = self.blob(manifest.to_string().as_bytes());
        descriptor["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        descriptor
    }

    fn write_index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.directory.path().join("index.json"), index.to_string()).unwrap();
    }

    fn import(&self) -> Result<ImportedRoot, Error> {
        import(self.directory.path(), &std::env::temp_dir())
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Three layers, each with another compression, that remove parts of those below.
fn layered() -> Image {
    Image::new()
        .layer(
            Tar::default()
                .directory("etc")
                .file("etc/kept", "1")
                .file("etc/removed", "1")
                .file("etc/replaced", "1")
                .file("opaque/below", "1")
                .file("opaque/deep/below", "1")
                .file("gone/below", "1")
                .file("to-directory", "1"),
            <[u8]>::to_vec,
        )
        .layer(
            Tar::default()
                .file("etc/.wh.removed", "")
                .file("etc/replaced", "2")
                // After an entry of its own layer, which it does not concern.
                .file("opaque/own", "2")
                .file("opaque/.wh..wh..opq", "")
                .file(".wh.gone", "")
                .file(".wh..wh.plnk", "")
                .directory("to-directory")
                .file("to-directory/inside", "2"),
            gzip,
        )
        .layer(
            Tar::default()
                .file("etc/.wh.own", "")
                .file("etc/own", "3")
                .hardlink("etc/link", "etc/kept"),
            zstd,
        )
}

const LAYERED: [&str; 9] = [
    "etc d",
    "etc/kept f 1",
    "etc/link f 1",
    "etc/own f 3",
    "etc/replaced f 2",
    "opaque d",
    "opaque/own f 2",
    "to-directory d",
    "to-directory/inside f 2",
];

#[test]
fn joins_the_layers_of_an_image() {
    let image = layered();
    image.write_index(&[image.manifest()]);
    let imported = image.import().unwrap();
    assert_eq!(listing(&imported), LAYERED);
    assert_eq!(imported.files.len(), 3, "contents of removed files are not kept");
}

#[test]
fn an_image_may_be_an_archive() {
    let image = layered();
    image.write_index(&[image.manifest()]);
    let archive = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("tar")
        .arg("-cf")
        .arg(archive.path())
        .arg("-C")
        .arg(image.directory.path())
        .arg(".")
        .status();
    assert!(status.unwrap().success());
    let imported = import(archive.path(), &std::env::temp_dir()).unwrap();
    assert_eq!(listing(&imported), LAYERED);
}

#[test]
fn an_image_may_be_one_that_docker_saved() {
    let image = layered();
    let layers = |image: &Image| -> Vec<String> {
        let digests = image.layers.iter().map(|layer| layer["digest"].as_str().unwrap());
        digests.map(|digest| digest.replace("sha256:", "")).collect()
    };
    let saved = |diff_ids: &[String]| {
        let configuration = json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        let names = layers(&image);
        let paths: Vec<String> = names.iter().map(|name| format!("{name}/layer.tar")).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": paths}]).to_string();
        let mut archive = Tar::default()
            .file("config.json", &configuration)
            .file("manifest.json", &manifest);
        for (name, path) in names.iter().zip(&paths) {
            let content = fs::read(image.directory.path().join("blobs/sha256").join(name)).unwrap();
            archive = archive.entry(EntryType::Regular, path.as_bytes(), b"", &content);
        }
        archive.import()
    };
    assert_eq!(listing(&saved(&image.diff_ids).unwrap()), LAYERED);
    let mut wrong = image.diff_ids.clone();
    wrong[1] = sha256(b"other");
    assert!(message(saved(&wrong)).contains("the image is damaged"));
}

#[test]
fn chooses_the_image_of_this_platform() {
    let image = layered();
    let mut ours = image.manifest();
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    if cfg!(target_arch = "aarch64") {
        ours["platform"]["architecture"] = json!("arm64");
    }
    let mut other = ours.clone();
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let index = json!({"schemaVersion": 2, "manifests": [other, ours]});
    let mut nested = image.blob(index.to_string().as_bytes());
    nested["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    image.write_index(&[nested]);
    assert_eq!(listing(&image.import().unwrap()), LAYERED);
    image.write_index(&[ours.clone(), ours]);
    assert!(message(image.import()).contains("it has 2 images"));
}

#[test]
fn refuses_images_with_wrong_digests() {
    let damage = |image: &Image, digest: &Value, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let path = digest.as_str().unwrap().replace(':', "/");
        let path = image.directory.path().join("blobs").join(path);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    };
    // A layer with another content of the same size.
    let image = Image::new().layer(Tar::default().file("a", "good"), <[u8]>::to_vec);
    image.write_index(&[image.manifest()]);
    damage(&image, &image.layers[0]["digest"], &|mut bytes| {
        bytes[512..516].copy_from_slice(b"evil");
        bytes
    });
    assert!(message(image.import()).contains("the image is damaged"));
    // A layer that goes on after its archive.
    let image = Image::new().layer(Tar::default().file("a", "good"), <[u8]>::to_vec);
    image.write_index(&[image.manifest()]);
    damage(&image, &image.layers[0]["digest"], &|mut bytes| {
        bytes.push(1);
        bytes
    });
    assert!(message(image.import()).contains("bytes instead of"));
    // A content that is not the one of the configuration.
    let mut image = Image::new().layer(Tar::default().file("a", "good"), gzip);
    image.diff_ids = vec![sha256(b"other")];
    image.write_index(&[image.manifest()]);
    assert!(message(image.import()).contains("the content of layer"));
    // A manifest with other bytes.
    let image = layered();
    let manifest = image.manifest();
    image.write_index(std::slice::from_ref(&manifest));
    damage(&image, &manifest["digest"], &|mut bytes| {
        bytes[0] = b' ';
        bytes
    });
    assert!(message(image.import()).contains("the image is damaged"));
    // Digests that are paths.
    let image = layered();
    let mut manifest = image.manifest();
    manifest["digest"] = json!("sha256:../../../../etc/passwd");
    image.write_index(&[manifest]);
    assert!(message(image.import()).contains("is not a SHA-256 digest"));
}
