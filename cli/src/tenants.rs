//! Tenants of a server: their groups, and the key of their possession markers.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use bitzel_access::{AccessTable, Pattern};
use bitzel_cas::PossessionKey;
use bitzel_cas_server::{TenantGroup, Tenants};

use crate::command_error::CommandError;
use crate::configuration::{Configuration, TenantsTable};
use crate::directories::Directories;

/// Key that the server makes for itself, in its directory.
const KEY_FILE: &str = "tenants.key";
/// Length of such a key, and minimum length of any.
const KEY_BYTES: usize = 32;

/// Opens the tenants of a configuration; `None` if all instances share their blobs.
pub(crate) fn open(
    configuration: &Configuration,
    directories: &Directories,
) -> Result<Option<Tenants>, CommandError> {
    let Some(table) = &configuration.tenants else {
        return Ok(None);
    };
    let secret = match &table.key {
        Some(path) => read(&configuration.base.join(path))?,
        None => read_or_create(&directories.server().join(KEY_FILE))?,
    };
    Ok(Some(Tenants::new(groups(table), PossessionKey::new(&secret))))
}

/// Name of the file of the operation queue. The inputs of an Action are checked when it enters the queue, so an Action
/// that was let in under other tenants, or with another key, must not come back: each has a queue of its own.
pub(crate) fn queue_file(tenants: Option<&Tenants>) -> String {
    match tenants {
        None => "queue.redb".to_owned(),
        Some(tenants) => format!("queue-{}.redb", tenants.identifier()),
    }
}

/// Grants that reach the instances of every tenant, so that tenants keep nothing apart for who has them. `None` if there
/// are no rules.
pub(crate) fn warnings(access: Option<&AccessTable>) -> Vec<String> {
    let Some(access) = access else {
        return vec![
            "there are tenants but no access rules: everybody may use the instances of every tenant, and so its blobs; \
             write [access] rules (docs/access.md)"
                .to_owned(),
        ];
    };
    let mut warnings = vec![];
    if !access.anonymous.is_empty() {
        warnings.push(format!(
            "access.anonymous gives [{}] on the instances of every tenant to everybody; leave it out",
            access.anonymous.join(", ")
        ));
    }
    for (number, rule) in access.rules.iter().enumerate() {
        let is_everywhere = rule.instances.iter().any(|pattern| pattern == "*");
        // Workers serve all tenants.
        let is_for_workers = rule.allow.iter().any(|word| word == "worker");
        let is_for_all = rule.identities.iter().any(|name| name == "*");
        if is_everywhere && (!is_for_workers || is_for_all) {
            warnings.push(format!(
                "access.rules, rule {}: it is for the instances of every tenant; add instances = [...] with those of one",
                number + 1
            ));
        }
    }
    warnings
}

fn groups(table: &TenantsTable) -> Vec<TenantGroup> {
    let group = |(name, instances): (&str, &[String])| TenantGroup {
        name: name.to_owned(),
        instances: instances.iter().map(Pattern::new).collect(),
    };
    table.groups().map(group).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let hint =
        "write a random one with `head -c 32 /dev/urandom > FILE`; servers that share a store need the same";
    let secret = fs::read(path).map_err(|error| {
        CommandError::from(error)
            .context(format!("cannot read the key of the tenants, {}", path.display()))
            .hint(hint)
    })?;
    if secret.len() < KEY_BYTES {
        return Err(CommandError::new(format!(
            "the key of the tenants, {}, has {} bytes; it needs {KEY_BYTES}",
            path.display(),
            secret.len()
        ))
        .hint(hint));
    }
    Ok(secret)
}

fn read_or_create(path: &Path) -> Result<Vec<u8>, CommandError> {
    if !path.exists() {
        create(path).map_err(|error| {
            CommandError::from(error).context(format!(
                "cannot create the key of the tenants, {}",
                path.display()
            ))
        })?;
    }
    read(path)
}

/// Creates a random key that only this user can read. A key that another process has created meanwhile stays.
fn create(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory)?;
    let mut secret = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    // Readable by this user alone.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&secret)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server").join(KEY_FILE);
        let first = read_or_create(&path).unwrap();
        assert_eq!(first, read_or_create(&path).unwrap());
        assert_eq!(first.len(), KEY_BYTES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = read_or_create(&directory.path().join("other")).unwrap();
        assert_ne!(first, other);
    }

    #[test]
    fn a_short_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "secret\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("has 7 bytes; it needs 32"), "{error}");
        assert!(!error.contains("secret\n"), "{error}");
    }

    #[test]
    fn other_tenants_and_keys_have_another_queue() {
        let file = |text: &str, secret: &[u8]| {
            let table: TenantsTable = toml::from_str(text).unwrap();
            queue_file(Some(&Tenants::new(groups(&table), PossessionKey::new(secret))))
        };
        let one = "groups = [{ name = \"a\", instances = [\"a/*\"] }]";
        let other = "groups = [{ name = \"a\", instances = [\"*\"] }]";
        assert_eq!(queue_file(None), "queue.redb");
        let files = [
            file("", b"key"),
            file(one, b"key"),
            file(other, b"key"),
            file(one, b"other"),
        ];
        assert_eq!(files[1], file(one, b"key"));
        for (index, name) in files.iter().enumerate() {
            assert!(!files[..index].contains(name), "{name}");
            assert_ne!(*name, queue_file(None));
        }
    }

    #[test]
    fn grants_for_all_tenants_are_noticed() {
        let access = |text: &str| -> AccessTable { toml::from_str(text).unwrap() };
        let rules = access(
            "anonymous = [\"read\"]\n\
             [[rules]]\nidentities = [\"*\"]\nallow = [\"read\"]\n\
             [[rules]]\ngroups = [\"a\"]\ninstances = [\"a\", \"*\"]\nallow = [\"all\"]\n\
             [[rules]]\ngroups = [\"b\"]\ninstances = [\"b/*\"]\nallow = [\"all\"]\n\
             [[rules]]\ngroups = [\"workers\"]\nallow = [\"worker\", \"read\", \"cas-write\"]\n\
             [[rules]]\nidentities = [\"*\"]\nallow = [\"worker\"]\n",
        );
        let found = warnings(Some(&rules)).join("\n");
        assert!(found.contains("access.anonymous gives [read]"), "{found}");
        for (number, is_noticed) in [(1, true), (2, true), (3, false), (4, false), (5, true)] {
            assert_eq!(found.contains(&format!("rule {number}:")), is_noticed, "{found}");
        }
        assert_eq!(warnings(None).len(), 1);
        let apart = "[[rules]]\ngroups = [\"a\"]\ninstances = [\"a\"]\nallow = [\"all\"]\n";
        assert_eq!(warnings(Some(&access(apart))), Vec::<String>::new());
    }
}
