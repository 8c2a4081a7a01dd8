//! Releases of `BitBake` and openembedded-core, if installed.

use std::path::PathBuf;
use std::process::Command;

use crate::peers::skip;
use crate::program::project_directory;

/// Checkouts of one release.
#[derive(Debug, Clone)]
pub struct Release {
    /// The checkout of `BitBake`.
    pub bitbake: PathBuf,
    /// The checkout of openembedded-core.
    pub core: PathBuf,
}

impl Release {
    /// The release with this tag, or `None` after [`skip`].
    pub fn find_or_skip(tag: &str) -> Option<Self> {
        let releases = project_directory().join(".demo/releases");
        let release = Self {
            bitbake: releases.join(format!("bitbake-{tag}")),
            core: releases.join(format!("openembedded-core-{tag}")),
        };
        if release.bitbake.is_dir() && release.core.is_dir() {
            return Some(release);
        }
        skip(
            &format!("Yocto {tag}"),
            "`make setup` finds no checkouts; put bitbake-TAG and openembedded-core-TAG into BITZEL_TEST_RELEASES",
        );
        None
    }

    /// The release's own `bitbake`, with the locale that it requires.
    pub fn bitbake_command(&self) -> Command {
        let mut command = Command::new(self.bitbake.join("bin/bitbake"));
        command
            .env_clear()
            .env(
                "PATH",
                format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.bitbake.display()),
            )
            .env("LOCPATH", project_directory().join(".demo/locale"))
            .env("LANG", "en_US.UTF-8")
            .env("LC_ALL", "en_US.UTF-8");
        command
    }
}
