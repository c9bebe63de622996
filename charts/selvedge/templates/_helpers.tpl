{{- define "selvedge.name" -}}
{{- if contains "selvedge" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-selvedge" (.Release.Name | trunc 41 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "selvedge.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "selvedge.name" .) }}
{{- end }}

{{- define "selvedge.selector" -}}
app.kubernetes.io/name: selvedge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "selvedge.labels" -}}
{{ include "selvedge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* With `helm upgrade --reuse-values` there are only the values of the chart before: what is new has no default then. */}}
{{- define "selvedge.shards" -}}
{{ .Values.shards | default 1 }}
{{- end }}

{{- define "selvedge.userRolePrefix" -}}
{{ .Values.rbac.userRolePrefix | default "selvedge" }}
{{- end }}

{{/* What tells a shard's objects from another's; without shards there is nothing to tell. */}}
{{- define "selvedge.shardSuffix" -}}
{{ if gt (int .count) 1 }}{{ printf "-shard-%d" .index }}{{ end }}
{{- end }}

{{- define "selvedge.shardLabel" -}}
{{ if gt (int .count) 1 }}selvedge.dev/shard: {{ .index | quote }}{{ end }}
{{- end }}

{{- define "selvedge.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The cluster's identity. Cluster-wide the operator reads it itself; in namespaces it may not. */}}
{{- define "selvedge.clusterUid" -}}
{{- $uid := .Values.clusterUid -}}
{{- if not $uid -}}{{/* who installs it in single namespaces may not even look */}}
{{- $uid = dig "metadata" "uid" "" (lookup "v1" "Namespace" "" "kube-system" | default dict) -}}
{{- end -}}
{{- if and .Values.watchNamespaces (not $uid) -}}
{{- fail "with watchNamespaces the operator may not read the namespace kube-system: set clusterUid to what `kubectl get namespace kube-system -o jsonpath={.metadata.uid}` prints" -}}
{{- end -}}
{{ $uid }}
{{- end }}

{{/* Where alone the operator may read Secrets; nothing where that is wherever resources are. */}}
{{- define "selvedge.secretNamespaces" -}}
{{- with .Values.rbac.secretNamespaces -}}
{{- if $.Values.watchNamespaces -}}
{{- fail "rbac.secretNamespaces is for an operator that watches all namespaces: with watchNamespaces it reads Secrets in those and nowhere else; leave one of the two out" -}}
{{- end -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}{{/* else nothing is looked up: helm template */}}
{{- range . -}}
{{- if not (lookup "v1" "Namespace" "" .) -}}
{{- fail (printf "rbac.secretNamespaces names %s, which does not exist: create that namespace, or leave it out" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ join "," . }}
{{- end -}}
{{- end }}

{{/* What the operator may do where resources are. Each rule has its reason. */}}
{{- define "selvedge.rules" -}}
# read what is declared
- apiGroups: [selvedge.dev]
  resources: [databaseservers, databaseschemas, databaseusers, migrationruns]
  verbs: [list, watch]
# say how far it is
- apiGroups: [selvedge.dev]
  resources: [databaseservers/status, databaseschemas/status, databaseusers/status, migrationruns/status]
  verbs: [patch]
# the finalizer of what is deleted with `deletionPolicy: Delete`
- apiGroups: [selvedge.dev]
  resources: [databaseschemas, databaseusers]
  verbs: [patch]
# migrations.autoApply makes runs, migrations.historyLimit removes old ones
- apiGroups: [selvedge.dev]
  resources: [migrationruns]
  verbs: [create, delete]
# read migrations; list and watch those with the label selvedge.dev/watch; write whole plans
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, delete]
# labels of namespaces, which a server's access selects by
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# say what changed
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* What reaches Secrets: these rules do, and who makes a pod gives it any Secret of its namespace. */}}
{{- define "selvedge.secretRules" -}}
# read credentials; write the Secrets of DatabaseUsers
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update, delete]
{{- if not (include "selvedge.secretNamespaces" .) }}
# see at once that one with the label selvedge.dev/watch changed
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
{{- end }}
{{- if (.Values.migrationImages).enabled }}
# read migrations out of container images: a Job beside the MigrationRun that owns it, the state of its pod, and the log
# in which it says what the files are
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}
{{- end }}

{{- define "selvedge.egressToDns" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts | default (list 53) }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{- define "selvedge.egressToApi" -}}
{{ include "selvedge.egressToDns" . }}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts | default (list 443 6443) }}
    - port: {{ . }}
    {{- end }}
  {{- with .Values.networkPolicy.apiServer }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "selvedge.releaseLabels" -}}
{{ include "selvedge.labels" . }}
app.kubernetes.io/component: release
{{- end }}

{{/* Of what the Job before an uninstallation needs: made before it, and gone with it. */}}
{{- define "selvedge.releaseHook" -}}
labels: {{- include "selvedge.releaseLabels" . | nindent 2 }}
annotations:
  helm.sh/hook: pre-delete
  helm.sh/hook-weight: "-5"
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* What `selvedge release` needs where resources are. */}}
{{- define "selvedge.releaseRules" -}}
# find what holds the finalizer, and take it away
- apiGroups: [selvedge.dev]
  resources: [databaseschemas, databaseusers]
  verbs: [list, patch]
{{- end }}
