{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "bitzel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all names: short enough for the longest suffix and for the hash of a pod's name. */}}
{{- define "bitzel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "bitzel.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bitzel.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods: (list $ COMPONENT). */}}
{{- define "bitzel.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "bitzel.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object: (list $ COMPONENT). */}}
{{- define "bitzel.labels" -}}
{{- $root := index . 0 -}}
{{ include "bitzel.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* Image: (list $ IMAGE). */}}
{{- define "bitzel.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Host name of the server, as its certificate has it. */}}
{{- define "bitzel.host" -}}
{{ include "bitzel.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Address of the server for workers. */}}
{{- define "bitzel.endpoint" -}}
{{- if .Values.server.enabled -}}
{{ ternary "grpcs" "grpc" (ne .Values.tls.secretName "") }}://{{ include "bitzel.host" . }}:{{ .Values.server.service.port }}
{{- else -}}
{{ .Values.workers.serverEndpoint }}
{{- end -}}
{{- end -}}

{{/* True (a text) if servers share the journal in PostgreSQL. */}}
{{- define "bitzel.sharesJournal" -}}
{{- if .Values.postgresql.url -}}true{{- end -}}
{{- end -}}

{{/* Headless Service, by which the servers reach each other. */}}
{{- define "bitzel.servers" -}}
{{ include "bitzel.fullname" . }}-servers
{{- end -}}

{{/* Address of the pod that has the results of several servers. */}}
{{- define "bitzel.resultsEndpoint" -}}
{{- $results := printf "%s-results" (include "bitzel.fullname" .) -}}
{{ ternary "grpcs" "grpc" (ne .Values.store.shards.tlsSecretName "") }}://{{ $results }}-0.{{ $results }}.{{ .Release.Namespace }}.svc:8980
{{- end -}}

{{/* Address of a CAS shard: (list $ NUMBER). */}}
{{- define "bitzel.shardEndpoint" -}}
{{- $root := index . 0 -}}
{{- $cas := printf "%s-cas" (include "bitzel.fullname" $root) -}}
{{ ternary "grpcs" "grpc" (ne $root.Values.store.shards.tlsSecretName "") }}://{{ $cas }}-{{ index . 1 }}.{{ $cas }}.{{ $root.Release.Namespace }}.svc:8980
{{- end -}}

{{/* True (a text) if the server keeps anything on its volume. */}}
{{- define "bitzel.hasVolume" -}}
{{- $store := .Values.store -}}
{{- if or (has $store.kind (list "disk" "shards" "custom")) (and (eq $store.kind "s3") $store.s3.cacheSize) -}}true{{- end -}}
{{- end -}}
