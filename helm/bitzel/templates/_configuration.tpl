{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/*
Configuration files. JSON texts, numbers and lists of texts are TOML as well, so toJson writes the values.
*/}}

{{/* A whole number of the values: helm reads large ones as floating-point numbers. */}}
{{- define "bitzel.toml.value" -}}
{{- if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) -}}{{ int64 . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* Lines of a table from a map. */}}
{{- define "bitzel.toml.lines" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ include "bitzel.toml.value" $value }}
{{- end }}
{{- end -}}

{{/* Configuration without the table [access], which a running server reads again. A change of it needs a restart. */}}
{{- define "bitzel.fixedConfiguration" -}}
[listen]
grpc = "0.0.0.0:8980"
{{- if .Values.server.httpCache.enabled }}
http = "0.0.0.0:8080"
{{- end }}
admin = "0.0.0.0:9980"

[execution]
enabled = true
{{- if ne (include "bitzel.sharesJournal" .) "true" }}
jobs = 0
{{- end }}
{{- include "bitzel.toml.lines" .Values.server.execution }}
{{- if eq (include "bitzel.sharesJournal" .) "true" }}

[execution.journal]
medium = "postgresql"

[execution.journal.postgresql]
url = {{ toJson .Values.postgresql.url }}
lease_time = {{ toJson .Values.postgresql.leaseTime }}
{{- if .Values.postgresql.passwordSecretName }}
password_file = "/etc/bitzel/postgresql-password/password"
{{- end }}
{{- if .Values.postgresql.caSecretName }}
tls_ca = "/etc/bitzel/postgresql-ca/ca.crt"
{{- end }}
{{- if .Values.tls.serversCa }}
servers_ca = "/etc/bitzel/tls/ca.crt"
{{- end }}
{{- end }}

{{ include (printf "bitzel.store.%s" .Values.store.kind) . | trim }}
{{- include "bitzel.connectionTables" . }}
{{- end -}}

{{- define "bitzel.serverConfiguration" -}}
{{ include "bitzel.fixedConfiguration" . }}

{{ include "bitzel.accessTable" . }}
{{- end -}}

{{- define "bitzel.store.disk" -}}
[blobs.disk]
directory = "/data/blobs"
size = {{ toJson .Values.store.disk.size }}
free_space = {{ toJson .Values.store.disk.freeSpace }}
compress = {{ .Values.store.disk.compress }}

{{ include "bitzel.store.results" . }}
{{- end -}}

{{- define "bitzel.store.results" -}}
[actions.disk]
directory = "/data/results"
max_results = {{ int64 .Values.store.disk.maxResults }}
free_space = {{ toJson .Values.store.disk.freeSpace }}
{{- end -}}

{{- define "bitzel.store.shards" -}}
{{ include "bitzel.store.shardedBlobs" . }}
{{- if eq (include "bitzel.sharesJournal" .) "true" }}
[actions.deadline.inner.grpc]
endpoint = {{ include "bitzel.resultsEndpoint" . | toJson }}
{{- include "bitzel.store.shardsTls" . }}
{{- else }}
{{ include "bitzel.store.results" . }}
{{- end }}
{{- end -}}

{{- define "bitzel.store.shardedBlobs" -}}
{{- $root := . -}}
{{- range until (int .Values.store.shards.count) }}
[[blobs.sharded.shards]]
name = "shard-{{ . }}"
[blobs.sharded.shards.store.deadline.inner.grpc]
endpoint = {{ include "bitzel.shardEndpoint" (list $root .) | toJson }}
{{- include "bitzel.store.shardsTls" $root }}
{{ end }}
{{- end -}}

{{- define "bitzel.store.shardsTls" -}}
{{- if .Values.store.shards.tlsSecretName }}
tls_ca = "/etc/bitzel/shards/ca.crt"
tls_certificate = "/etc/bitzel/shards/tls.crt"
tls_key = "/etc/bitzel/shards/tls.key"
{{- end }}
{{- end -}}

{{- define "bitzel.store.grpc" -}}
{{- $grpc := .Values.store.grpc -}}
{{- range list "blobs" "actions" }}
[{{ . }}.deadline.inner.grpc]
endpoint = {{ toJson $grpc.endpoint }}
instance = {{ toJson $grpc.instance }}
{{- if $grpc.ca }}
tls_ca = "/etc/bitzel/store/ca.crt"
{{- end }}
{{- if $grpc.certificate }}
tls_certificate = "/etc/bitzel/store/tls.crt"
tls_key = "/etc/bitzel/store/tls.key"
{{- end }}
{{- if $grpc.token }}
token_file = "/etc/bitzel/store/token"
{{- end }}
{{ end }}
{{- end -}}

{{- define "bitzel.store.s3" -}}
{{- with .Values.store.s3 -}}
{{- if .cacheSize }}
[blobs.tiered.fast.disk]
directory = "/data/blobs"
size = {{ toJson .cacheSize }}
{{ include "bitzel.store.bucket" (list . "blobs.tiered.slow" "blobs") }}
{{- else }}
{{ include "bitzel.store.bucket" (list . "blobs" "blobs") }}
{{- end }}

{{ include "bitzel.store.bucket" (list . "actions" "results") }}
{{- end -}}
{{- end -}}

{{/* One part of the bucket: (list S3 TABLE PREFIX). */}}
{{- define "bitzel.store.bucket" -}}
{{- $s3 := index . 0 -}}
[{{ index . 1 }}.deadline.inner.s3]
bucket = {{ toJson $s3.bucket }}
prefix = {{ printf "%s/%s" $s3.prefix (index . 2) | trimPrefix "/" | toJson }}
{{- with $s3.endpoint }}
endpoint = {{ toJson . }}
{{- end }}
{{- with $s3.region }}
region = {{ toJson . }}
{{- end }}
{{- with $s3.renewAfter }}
renew_after = {{ toJson . }}
{{- end }}
{{- end -}}

{{- define "bitzel.store.custom" -}}
{{ .Values.store.custom }}
{{- end -}}

{{/* Encryption and limits of the server. */}}
{{- define "bitzel.connectionTables" -}}
{{- if .Values.tls.secretName }}

[tls]
certificate = "/etc/bitzel/tls/tls.crt"
key = "/etc/bitzel/tls/tls.key"
{{- if .Values.tls.clientCa }}
client_ca = "/etc/bitzel/tls/ca.crt"
{{- end }}
{{- end }}
{{- with .Values.server.limits }}

[limits]
{{- include "bitzel.toml.lines" . }}
{{- end }}
{{- end -}}

{{/* Access rules of the server, which it reads again when they change. */}}
{{- define "bitzel.accessTable" -}}
[access]
{{- if eq .Values.access.mode "anonymous" }}
anonymous = ["all"]
{{- else }}
anonymous = {{ toJson .Values.access.anonymous }}
{{- if .Values.access.passwordsSecretName }}
passwords = "/etc/bitzel/passwords/passwords"
{{- end }}
{{- with .Values.access.tokens }}

[access.tokens]
{{- include "bitzel.toml.lines" . }}
{{- end }}
{{- range .Values.access.rules }}

[[access.rules]]
{{- include "bitzel.toml.lines" . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A CAS shard: a server that executes nothing. The servers, and the pod of the results, are its only clients. */}}
{{- define "bitzel.shardConfiguration" -}}
[listen]
grpc = "0.0.0.0:8980"
admin = "0.0.0.0:9980"

[execution]
enabled = false

[blobs.disk]
directory = "/data/blobs"
size = {{ toJson .Values.store.shards.size }}
free_space = {{ toJson .Values.store.shards.freeSpace }}

[actions.disk]
directory = "/data/results"
{{ include "bitzel.shardAccess" (list . (list "read" "cas-write")) }}
{{- end -}}

{{/*
The results of several servers: a server that executes nothing and has the blobs of the shards, because a result is only
found as long as all of its blobs are there.
*/}}
{{- define "bitzel.resultsConfiguration" -}}
[listen]
grpc = "0.0.0.0:8980"
admin = "0.0.0.0:9980"

[execution]
enabled = false

{{ include "bitzel.store.shardedBlobs" . | trim }}

{{ include "bitzel.store.results" . }}
{{ include "bitzel.shardAccess" (list . (list "read" "ac-write")) }}
{{- end -}}

{{/* Who may use a shard or the results: (list $ PERMISSIONS). */}}
{{- define "bitzel.shardAccess" -}}
{{- $root := index . 0 -}}
{{- $allow := index . 1 -}}
{{- if $root.Values.store.shards.tlsSecretName }}
[tls]
certificate = "/etc/bitzel/shards/tls.crt"
key = "/etc/bitzel/shards/tls.key"
client_ca = "/etc/bitzel/shards/ca.crt"
client_certificate_required = true

[[access.rules]]
identities = ["*"]
methods = ["certificate"]
allow = {{ toJson $allow }}
{{- else }}
[access]
anonymous = {{ toJson $allow }}
{{- end }}
{{- end -}}
