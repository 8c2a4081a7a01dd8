//! Image root of a launcher: a read-only overlay that bubblewrap shows as `/`.

use std::ffi::CString;

use bitzel_launcher::ImageRootMount;
use rustix::mount::{MountFlags, mount};

use crate::failure::{Failure, InStep as _};
use crate::raw_calls::has_program_interpreter;

/// Mounts an image root in the mount namespace of this launcher. The working directory is the worker's directory.
pub(crate) fn mount_image_root(image_root: &ImageRootMount) -> Result<(), Failure> {
    if has_program_interpreter() {
        // The kernel would start the holder with the dynamic linker of the image, outside of any sandbox.
        return Err(Failure::new(
            "mount an image root",
            "this worker was built without the static C library, so it cannot run Actions in image roots safely: install \
             the static C library (glibc-static in Fedora) and build bitzel again",
        ));
    }
    let ImageRootMount {
        lower_directories,
        mount_point,
    } = image_root;
    let step = format_args!("mount the image root {mount_point}");
    // Without an upper directory nothing can be written. `userxattr`: see the overlay of a command.
    let options = format!("lowerdir={},userxattr", lower_directories.join(":"));
    let options = CString::new(options).in_step(step)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount("overlay", &**mount_point, "overlay", flags, &*options).in_step(step)
}
