#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: apparmor.sh PROFILES SECURITYFS
#
# Loads the AppArmor profile of the workers into the kernel, or the new one in place of the old. A restart of the node
# forgets it; the kubelet then runs this container again.
set -eu
if ! [ -e "$2/apparmor/.replace" ]; then
    echo "this node has no AppArmor: nothing to load. Workers start here with workers.appArmorProfile: \"\" only"
    exit 0
fi
apparmor_parser --subdomainfs "$2/apparmor" --replace --skip-cache "$1/bitzel-worker.apparmor"
grep '^bitzel-worker (enforce)$' "$2/apparmor/profiles"
echo "the AppArmor profile bitzel-worker is loaded on this node"
