{{- define "dedup.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dedup.fullname" -}}
{{- $name := include "dedup.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "dedup.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dedup.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dedup.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "dedup.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "dedup.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "dedup.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "dedup.image" -}}
{{- $repository := required "image.repository is required: build the image with server/deploy/Containerfile, push it, and name it here" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* The times of a drain, all from terminationGracePeriodSeconds: a tenth, 5 to 30 s; 5 s; and the rest, less 5 s. */}}
{{- define "dedup.preStopSeconds" -}}
{{- min 30 (max 5 (div (int .Values.terminationGracePeriodSeconds) 10)) }}
{{- end }}

{{- define "dedup.graceSeconds" -}}
{{- sub (int .Values.terminationGracePeriodSeconds) (add (include "dedup.preStopSeconds" . | int) 5 5) }}
{{- end }}

{{/* The port of /metrics. */}}
{{- define "dedup.metricsPort" -}}
{{ ternary "metrics" "http" (gt (int .Values.metrics.port) 0) }}
{{- end }}

{{/* Settings as TOML: tables behind the rest. toToml would write integers as floats. */}}
{{- define "dedup.toml" -}}
{{- $scalars := dict }}
{{- $tables := dict }}
{{- range $name, $value := .Values.config }}
{{- if and (kindIs "slice" $value) $value (kindIs "map" (first $value)) }}
{{- $_ := set $tables $name $value }}
{{- else if kindIs "map" $value }}
{{- $_ := set $tables $name $value }}
{{- else if not (kindIs "invalid" $value) }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- range $name, $value := $tables }}
{{- if kindIs "map" $value }}

[{{ $name }}]
{{- include "dedup.tomlPairs" $value }}
{{- else }}
{{- range $value }}

[[{{ $name }}]]
{{- include "dedup.tomlPairs" . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dedup.tomlPairs" -}}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $name | toJson }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end }}
