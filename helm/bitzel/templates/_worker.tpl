{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* Labels that select the pods of a pool: (list $ POOL). */}}
{{- define "bitzel.poolSelector" -}}
{{ include "bitzel.selector" (list (index . 0) "worker") }}
bitzel.io/pool: {{ (index . 1).name }}
{{- end -}}

{{/* Fields of a worker's pod that its isolation decides. */}}
{{- define "bitzel.workerPodIsolation" -}}
{{- if eq .Values.workers.isolation "sysAdmin" -}}
hostUsers: true
{{- else -}}
# A user namespace of the pod's own: root in it is nobody on the node, and only there `procMount: Unmasked` is allowed.
hostUsers: false
{{- end -}}
{{- end -}}

{{- define "bitzel.workerPodSecurity" -}}
{{- if eq .Values.workers.isolation "sysAdmin" -}}
# Root until /proc is uncovered; the worker itself is user 1000 without capabilities.
runAsUser: 0
runAsGroup: 0
{{- else -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
{{- end }}
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
{{- if eq .Values.workers.isolation "userNamespaces" }}
  type: Localhost
  localhostProfile: {{ .Values.workers.seccompProfile }}
{{- else }}
  type: Unconfined
{{- end }}
{{- if ne .Values.workers.isolation "userNamespaces" }}
appArmorProfile:
  type: Unconfined
{{- else if eq .Values.workers.appArmorProfile "Unconfined" }}
appArmorProfile:
  type: Unconfined
{{- else if .Values.workers.appArmorProfile }}
appArmorProfile:
  type: Localhost
  localhostProfile: {{ .Values.workers.appArmorProfile }}
{{- end }}
{{- end -}}

{{- define "bitzel.workerContainerSecurity" -}}
readOnlyRootFilesystem: true
{{- if eq .Values.workers.isolation "sysAdmin" }}
allowPrivilegeEscalation: true
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN, SETUID, SETGID, SETPCAP]
{{- else }}
allowPrivilegeEscalation: false
procMount: Unmasked
capabilities:
  drop: [ALL]
{{- end }}
{{- end -}}

{{/*
Command of a worker's container, before the arguments of `bitzel`. tini is the first process, because a launcher
that the kernel kills, when memory runs out, leaves a process that only the first one can reap. The container runtime covers parts of /proc, and under
a covered /proc the kernel lets no sandbox mount one of its own. With user namespaces, `procMount: Unmasked` prevents
that; without them, the container's first process takes the covers off and then drops all that let it do so.
*/}}
{{- define "bitzel.workerCommand" -}}
{{- if eq .Values.workers.isolation "sysAdmin" -}}
- /bin/sh
- -euc
- |
  while read -r _ _ _ _ point _; do
    case $point in
      /proc/sys/fs/binfmt_misc) ;;
      /proc/*) covers="$point ${covers-}" ;;
    esac
  done </proc/self/mountinfo
  for point in ${covers-}; do umount --no-mtab "$point"; done
  exec setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
- sh
{{ end -}}
- /usr/bin/tini
- --
- /usr/local/bin/bitzel
{{- end -}}

{{/* Volume of a pool's cache: the field of the Volume. */}}
{{- define "bitzel.cacheVolume" -}}
{{- $cache := .cache | default dict -}}
{{- if $cache.hostPath -}}
hostPath:
  path: {{ $cache.hostPath.path }}
  type: Directory
{{- else if $cache.claim -}}
ephemeral:
  volumeClaimTemplate:
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $cache.claim.storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ $cache.claim.size }}
{{- else if $cache.emptyDir -}}
emptyDir:
  {{- toYaml $cache.emptyDir | nindent 2 }}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end -}}
