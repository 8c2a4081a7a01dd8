{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/*
Combinations of values that would render and not work. The schema checks the form of each value; these rules need
several of them, and sentences that a schema cannot give.
*/}}
{{- define "bitzel.validate" -}}
{{- $access := .Values.access -}}
{{- $store := .Values.store -}}
{{- $workers := .Values.workers -}}
{{- $rules := eq $access.mode "rules" -}}

{{- if and .Values.server.enabled (ne .Values.server.service.type "ClusterIP") -}}
  {{- if not (and $rules .Values.tls.secretName) -}}
    {{- fail (printf "server.service.type %s makes the server reachable from outside the cluster: set access.mode to rules and tls.secretName first, or everybody there could replace the results that others build with" .Values.server.service.type) -}}
  {{- end -}}
{{- end -}}

{{- if and (eq $access.mode "anonymous") (or $access.anonymous $access.rules $access.tokens $access.passwordsSecretName) -}}
  {{- fail "access.mode is anonymous, which ignores access.anonymous, rules, tokens and passwordsSecretName: set access.mode to rules" -}}
{{- end -}}
{{- if and $rules (not $access.anonymous) (not $access.rules) -}}
  {{- fail "access.mode is rules, but access.rules and access.anonymous are empty: nobody could do anything" -}}
{{- end -}}
{{- if and (or $access.tokens $access.passwordsSecretName) (not .Values.tls.secretName) -}}
  {{- fail "tokens and passwords are sent under TLS only: set tls.secretName" -}}
{{- end -}}
{{- if and .Values.tls.clientCa (not .Values.tls.secretName) -}}
  {{- fail "tls.clientCa needs tls.secretName, the Secret that has ca.crt" -}}
{{- end -}}

{{- $credentials := or $workers.credentials.certificate $workers.credentials.token -}}
{{- if and (or $credentials $workers.credentials.ca) (not $workers.credentials.secretName) -}}
  {{- fail "workers.credentials.ca, certificate and token are files of a Secret: set workers.credentials.secretName" -}}
{{- end -}}
{{- if and .Values.pools $rules .Values.server.enabled (not $credentials) (not (has "worker" $access.anonymous)) (not (has "all" $access.anonymous)) -}}
  {{- fail "access.mode is rules, but the workers have no credentials: set workers.credentials.secretName with certificate or token, or allow anonymous callers worker, read and cas-write" -}}
{{- end -}}
{{- if and .Values.pools $credentials (not (hasPrefix "grpcs://" (include "bitzel.endpoint" .))) -}}
  {{- fail "the workers' credentials are sent under TLS only: set tls.secretName, or a serverEndpoint with grpcs://" -}}
{{- end -}}
{{- if and .Values.pools (not .Values.server.enabled) (not $workers.serverEndpoint) -}}
  {{- fail "server.enabled is false and pools is not empty: set workers.serverEndpoint, the address of the server, or pools to []" -}}
{{- end -}}
{{- if and .Values.server.enabled $workers.serverEndpoint -}}
  {{- fail "workers.serverEndpoint is for server.enabled: false; the workers of this release use its own server" -}}
{{- end -}}

{{- if and (eq $store.kind "grpc") (not $store.grpc.endpoint) -}}
  {{- fail "store.kind is grpc: set store.grpc.endpoint, such as grpcs://cache.example:443" -}}
{{- end -}}
{{- if and (or $store.grpc.ca $store.grpc.certificate $store.grpc.token) (not $store.grpc.secretName) -}}
  {{- fail "store.grpc.ca, certificate and token are files of a Secret: set store.grpc.secretName" -}}
{{- end -}}
{{- if and $store.grpc.token (not (hasPrefix "grpcs://" $store.grpc.endpoint)) -}}
  {{- fail "store.grpc.token is sent under TLS only: the endpoint has to begin with grpcs://" -}}
{{- end -}}
{{- if and (eq $store.kind "s3") (not $store.s3.bucket) -}}
  {{- fail "store.kind is s3: set store.s3.bucket" -}}
{{- end -}}
{{- if and (eq $store.kind "custom") (not $store.custom) -}}
  {{- fail "store.kind is custom: write the tables [blobs] and [actions] into store.custom" -}}
{{- end -}}
{{- if and (eq .Values.server.volume.type "existingClaim") (not .Values.server.volume.claimName) -}}
  {{- fail "server.volume.type is existingClaim: set server.volume.claimName" -}}
{{- end -}}

{{- $replicas := int .Values.server.replicas -}}
{{- if and .Values.server.enabled (gt $replicas 1) -}}
  {{- if not .Values.postgresql.url -}}
    {{- fail (printf "server.replicas is %d, and each server would have a queue of its own, from which it never sees the workers of the others: set postgresql.url, where they share one journal, or replicas to 1" $replicas) -}}
  {{- end -}}
  {{- if eq $store.kind "disk" -}}
    {{- fail (printf "server.replicas is %d, and with store.kind disk each server would have blobs and results of its own: set store.kind to shards, grpc or s3" $replicas) -}}
  {{- end -}}
  {{- if and (eq $store.kind "custom") (regexMatch "(?m)^\\s*\\[(blobs|actions)\\.(disk|memory)\\]" $store.custom) -}}
    {{- fail (printf "server.replicas is %d, and the store of store.custom is a disk or memory of each server: name a store that all of them reach" $replicas) -}}
  {{- end -}}
  {{- if eq .Values.server.volume.type "existingClaim" -}}
    {{- fail (printf "server.replicas is %d, and server.volume.claimName is one claim for all of them: set server.volume.type to claim or emptyDir" $replicas) -}}
  {{- end -}}
{{- end -}}
{{- if and (not .Values.postgresql.url) (or .Values.postgresql.passwordSecretName .Values.postgresql.caSecretName) -}}
  {{- fail "postgresql.passwordSecretName and caSecretName are for the database of postgresql.url: set it, or leave them out" -}}
{{- end -}}
{{- if and .Values.tls.serversCa (not (and .Values.tls.secretName .Values.postgresql.url)) -}}
  {{- fail "tls.serversCa is for servers that share a journal, with TLS: set tls.secretName and postgresql.url" -}}
{{- end -}}

{{- $controller := .Values.controller -}}
{{- if $controller.enabled -}}
  {{- if not (and .Values.pools .Values.server.enabled) -}}
    {{- fail "controller.enabled needs the server and the pools of this release: it compares the one with the pods of the others" -}}
  {{- end -}}
  {{- $hasCredentials := or $controller.credentials.certificate $controller.credentials.token -}}
  {{- if and (or $hasCredentials $controller.credentials.ca) (not $controller.credentials.secretName) -}}
    {{- fail "controller.credentials.ca, certificate and token are files of a Secret: set controller.credentials.secretName" -}}
  {{- end -}}
  {{- if and $hasCredentials (not .Values.tls.secretName) -}}
    {{- fail "the controller's credentials are sent under TLS only: set tls.secretName" -}}
  {{- end -}}
  {{- if and $rules (not $hasCredentials) (not (has "execute" $access.anonymous)) (not (has "all" $access.anonymous)) -}}
    {{- fail "access.mode is rules, but the controller has no credentials: set controller.credentials.secretName with certificate or token" -}}
  {{- end -}}
{{- end -}}

{{- if and .Values.pools (ne $workers.isolation "sysAdmin") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
  {{- fail (printf "workers.isolation %s needs Kubernetes 1.33 or newer, where user namespaces of pods are on by default; this is %s, on which only sysAdmin works" $workers.isolation .Capabilities.KubeVersion.Version) -}}
{{- end -}}

{{- if eq $workers.appArmorProfile "RuntimeDefault" -}}
  {{- fail "workers.appArmorProfile RuntimeDefault forbids the mounts of sandboxes: leave it at bitzel-worker, which nodeProfiles loads, or set it to \"\" for nodes without AppArmor" -}}
{{- end -}}
{{- if and (ne $workers.isolation "userNamespaces") (not (has $workers.appArmorProfile (list "" "bitzel-worker"))) -}}
  {{- fail (printf "workers.appArmorProfile is for isolation userNamespaces; %s runs without profiles" $workers.isolation) -}}
{{- end -}}

{{- if and $rules .Values.server.enabled .Values.pools -}}
  {{- if and $workers.credentials.certificate (not .Values.tls.clientCa) (not $workers.credentials.token) -}}
    {{- fail "workers.credentials.certificate shows a certificate that the server would not ask for: set tls.clientCa, and ca.crt in the Secret of tls.secretName" -}}
  {{- end -}}
  {{- if and $workers.credentials.token (not $access.tokens) (not $workers.credentials.certificate) -}}
    {{- fail "workers.credentials.token is a token that the server has no keys for: set access.tokens" -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.server.enabled .Values.server.httpCache.enabled (eq (int .Values.server.httpCache.port) (int .Values.server.service.port)) -}}
  {{- fail (printf "server.httpCache.port and server.service.port are both %d: a Service has each port once" (int .Values.server.service.port)) -}}
{{- end -}}

{{- if .Values.certManager.enabled -}}
  {{- if not .Values.certManager.issuer.name -}}
    {{- fail "certManager.enabled needs an issuer that signs the certificates: set certManager.issuer.name" -}}
  {{- end -}}
  {{- $secrets := list -}}
  {{- range $secret := list (ternary .Values.tls.secretName "" .Values.server.enabled) (ternary .Values.store.shards.tlsSecretName "" (eq $store.kind "shards")) (ternary $workers.credentials.secretName "" $workers.credentials.certificate) (ternary .Values.controller.credentials.secretName "" (and .Values.controller.enabled .Values.controller.credentials.certificate)) -}}
    {{- if $secret -}}
      {{- if has $secret $secrets -}}
        {{- fail (printf "certManager.enabled: the Secret %s would belong to two Certificates: give the server, the shards, the workers and the controller Secrets of their own" $secret) -}}
      {{- end -}}
      {{- $secrets = append $secrets $secret -}}
    {{- end -}}
  {{- end -}}
  {{- if not $secrets -}}
    {{- fail "certManager.enabled makes the Secrets of tls.secretName, store.shards.tlsSecretName and credentials.secretName: set one of them" -}}
  {{- end -}}
{{- end -}}

{{- $room := list -}}
{{- if and .Values.server.enabled (eq $store.kind "disk") (eq .Values.server.volume.type "claim") -}}
  {{- $room = append $room (list "store.disk.size" $store.disk.size "server.volume.size" .Values.server.volume.size) -}}
{{- end -}}
{{- if and .Values.server.enabled (eq $store.kind "s3") (eq .Values.server.volume.type "claim") $store.s3.cacheSize -}}
  {{- $room = append $room (list "store.s3.cacheSize" $store.s3.cacheSize "server.volume.size" .Values.server.volume.size) -}}
{{- end -}}
{{- if and .Values.server.enabled (eq $store.kind "shards") -}}
  {{- $room = append $room (list "store.shards.size" $store.shards.size "store.shards.volume.size" $store.shards.volume.size) -}}
{{- end -}}
{{- range $pool := .Values.pools -}}
  {{- $cache := $pool.cache | default dict -}}
  {{- $size := $cache.size | default "20G" -}}
  {{- $binary := ternary (printf "%siB" $size) (printf "%sB" $size) (regexMatch "[KMGT]$" $size) -}}
  {{- if $cache.claim -}}
    {{- $room = append $room (list (printf "pool %s: cache.size (20G if it is left out)" $pool.name) $binary "cache.claim.size" $cache.claim.size) -}}
  {{- else if ($cache.emptyDir | default dict).sizeLimit -}}
    {{- $room = append $room (list (printf "pool %s: cache.size (20G if it is left out)" $pool.name) $binary "cache.emptyDir.sizeLimit" $cache.emptyDir.sizeLimit) -}}
  {{- end -}}
  {{- $memory := (($pool.resources | default dict).limits | default dict).memory -}}
  {{- if and $pool.scratchMemory $memory -}}
    {{- $room = append $room (list (printf "pool %s: scratchMemory" $pool.name) $pool.scratchMemory "resources.limits.memory" $memory) -}}
  {{- end -}}
  {{- range $kind := list "cpu" "memory" -}}
    {{- $wanted := get (($pool.resources | default dict).requests | default dict) $kind -}}
    {{- $limit := get (($pool.resources | default dict).limits | default dict) $kind -}}
    {{- if and $wanted $limit (gt (include "bitzel.milli" $wanted | float64) (include "bitzel.milli" $limit | float64)) -}}
      {{- fail (printf "pool %s: resources.requests.%s is %v, more than the limit of %v: Kubernetes refuses such a pod" $pool.name $kind $wanted $limit) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $room -}}
  {{- if gt (include "bitzel.milli" (index . 1) | float64) (include "bitzel.milli" (index . 3) | float64) -}}
    {{- fail (printf "%s is %v, and %s %v: what is kept would fill it" (index . 0) (index . 1) (index . 2) (index . 3)) -}}
  {{- end -}}
{{- end -}}

{{- $names := dict -}}
{{- $scaled := list -}}
{{- range .Values.pools -}}
  {{- if hasKey $names .name -}}
    {{- fail (printf "two pools have the name %s" .name) -}}
  {{- end -}}
  {{- $_ := set $names .name true -}}
  {{- if .autoscaling -}}
    {{- $scaled = append $scaled .name -}}
    {{- if ne $.Values.autoscaling.by "keda" -}}
      {{- if or (lt (int .autoscaling.min) 1) .autoscaling.idle -}}
        {{- fail (printf "pool %s: autoscaling.min 0 and idle need autoscaling.by keda; an HPA alone does not start the first worker" .name) -}}
      {{- end -}}
    {{- else if not $.Values.server.enabled -}}
      {{- fail (printf "pool %s: with autoscaling.by keda the server of this release answers KEDA; the workers of another server need replicas" .name) -}}
    {{- end -}}
    {{- if gt (int .autoscaling.min) (int .autoscaling.max) -}}
      {{- fail (printf "pool %s: autoscaling.min is greater than max" .name) -}}
    {{- end -}}
    {{- if hasKey . "replicas" -}}
      {{- fail (printf "pool %s has replicas and autoscaling: each upgrade would set the number back; remove replicas" .name) -}}
    {{- end -}}
  {{- else if not (hasKey . "replicas") -}}
    {{- fail (printf "pool %s needs replicas or autoscaling" .name) -}}
  {{- end -}}
  {{- $cache := .cache | default dict -}}
  {{- $kinds := list -}}
  {{- range $kind := list "emptyDir" "hostPath" "claim" -}}
    {{- if hasKey $cache $kind -}}{{- $kinds = append $kinds $kind -}}{{- end -}}
  {{- end -}}
  {{- if gt (len $kinds) 1 -}}
    {{- fail (printf "pool %s: cache has %s; take one of them" .name (join " and " $kinds)) -}}
  {{- end -}}
{{- end -}}
{{- if and (gt (len $scaled) 1) (ne .Values.autoscaling.by "keda") -}}
  {{- fail (printf "the pools %s have autoscaling: the metric is one for all pools, so each would start workers for all of it; set autoscaling.by to keda, or let one pool scale, and give the others replicas" (join " and " $scaled)) -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes or a size of a store, in thousandths, as digits. */}}
{{- define "bitzel.milli" -}}
{{- $text := toString . | replace " " "" | trimSuffix "B" -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $factors := dict "" 1000 "m" 1 "k" 1e6 "K" 1e6 "M" 1e9 "G" 1e12 "T" 1e15 "P" 1e18 "Ki" 1024000 "Mi" 1048576000 "Gi" 1073741824000 "Ti" 1099511627776000 "Pi" 1125899906842624000 -}}
{{- $factor := get $factors (trimPrefix $number $text) | default 0 -}}
{{- printf "%.0f" (mulf (float64 $number) (float64 $factor)) -}}
{{- end -}}
