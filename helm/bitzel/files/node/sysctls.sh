#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: sysctls.sh PROC_SYS NAME=VALUE…
#
# Sets what user namespaces need. Limits (user.*) are only raised. A setting that this kernel does not have stays out.
set -eu
root=$1
shift
for setting; do
    name=${setting%%=*}
    wanted=${setting#*=}
    file=$root/$(echo "$name" | tr . /)
    if ! [ -e "$file" ]; then
        echo "this kernel has no $name"
        continue
    fi
    value=$(cat "$file")
    case $name in
        user.*) [ "$value" -lt "$wanted" ] || wanted=$value ;;
    esac
    if [ "$value" = "$wanted" ]; then
        echo "$name is $value"
    else
        echo "$wanted" >"$file"
        echo "$name was $value, is $(cat "$file")"
    fi
done
