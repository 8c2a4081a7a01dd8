# SPDX-License-Identifier: Apache-2.0
# Written by helm/apparmor_profile.py.
#
# The rules of AppArmor 3: with them the kernel does not mediate the creation of user namespaces by this profile, also
# where kernel.apparmor_restrict_unprivileged_userns is 1. Newer parsers take it too.
abi <abi/3.0>,

profile bitzel-worker flags=(attach_disconnected,mediate_deleted) {
  # namespaces, mounts and pivot_root; --hostname
  capability sys_admin,
  # bubblewrap drops to the worker's user
  capability setuid,
  # the same
  capability setgid,
  # bubblewrap drops its bounding set
  capability setpcap,
  # bubblewrap brings up the loopback interface of --unshare-net
  capability net_admin,
  # the launcher looks at the processes of a command
  capability sys_ptrace,
  # it ends them
  capability kill,
  # /proc/sys/user of the launcher's namespace, and limits of commands
  capability sys_resource,
  # it removes what a command left
  capability dac_override,
  # the same
  capability dac_read_search,
  # commands that are root in a namespace of their own
  capability chown,
  # the same
  capability fowner,
  # the same
  capability fsetid,
  # the same
  capability sys_chroot,

  # bubblewrap's root; /tmp and /dev/shm of each Action
  mount fstype=tmpfs,
  # the input root of an Action; an image root
  mount fstype=overlay,
  # terminals
  mount fstype=devpts,
  # bubblewrap's --dev
  mount fstype=mqueue,
  # /proc of each Action
  mount fstype=proc -> /{,newroot/}proc/,

  # directories of the worker in the sandbox
  mount options=(bind),
  # the same
  mount options=(rbind),
  # read-only parts of it
  mount options=(remount,bind) options in (ro,nosuid,nodev,noexec,noatime,nodiratime,relatime,strictatime,silent),
  # the same, as bubblewrap does it
  mount options=(remount,rbind) options in (ro,nosuid,nodev,noexec,noatime,nodiratime,relatime,strictatime,silent),
  # the launcher moves /dev, /proc and /tmp to the input root
  mount options=(move),
  # no mount leaves the sandbox
  mount options=(silent,rslave),
  # the same
  mount options=(silent,rprivate),
  # the same, by unshare(1)
  mount options=(rslave),
  # the same
  mount options=(rprivate),

  # other file systems
  deny mount fstype=[^tdomp]*,
  # other file systems
  deny mount fstype=t[^m]*,
  # other file systems
  deny mount fstype=o[^v]*,
  # other file systems
  deny mount fstype=d[^e]*,
  # other file systems
  deny mount fstype=de[^v]*,
  # other file systems
  deny mount fstype=dev[^p]*,
  # other file systems
  deny mount fstype=m[^q]*,
  # other file systems
  deny mount fstype=p[^r]*,
  # other file systems
  deny mount fstype=pr[^o]*,

  # the old root
  umount,
  # bubblewrap and the launcher change the root
  pivot_root,

  # the server; fetching
  network inet stream,
  # name resolution
  network inet dgram,
  # as above
  network inet6 stream,
  # as above
  network inet6 dgram,
  # pseudo, make's job server, the launcher
  network unix,
  # getaddrinfo, and the loopback interface
  network netlink raw,

  # the kubelet ends the worker
  signal (receive),
  # its own processes
  signal (send) peer=bitzel-worker,
  # its own processes
  ptrace (read,readby,trace,tracedby) peer=bitzel-worker,

  # what the pod's file systems and users permit
  file,

  # settings of the kernel
  deny /proc/sys/{abi,crypto,debug,dev,fs,kernel,net,sunrpc,vm}/** w,
  # memory of the kernel
  deny /proc/{sysrq-trigger,kcore,kmem,mem,kallsyms,kpagecount,kpageflags} rwklx,
  # hardware
  deny /proc/{acpi,bus,fs,irq,scsi}/** w,
  # hardware
  deny /sys/** w,
  # policies and traces of the kernel
  deny /sys/kernel/{security,debug,tracing}/** rwklx,
  # firmware
  deny /sys/firmware/** rwklx,
}
