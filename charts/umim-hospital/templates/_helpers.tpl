{{- define "umim-hospital.labels" -}}
app.kubernetes.io/name: umim-hospital
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: umim
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Name of a claim. Call with (dict "root" $ "volume" "data"). */}}
{{- define "umim-hospital.claim" -}}
{{ (index .root.Values.volumes .volume).existingClaim | default (printf "%s-%s" .root.Release.Name .volume) }}
{{- end }}

{{/* Peers of an egress rule: the Pods of a namespace, and CIDRs. Nothing where neither is set. */}}
{{- define "umim-hospital.peers" -}}
{{- with .namespace }}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ . }}}
{{- end }}
{{- range .cidrs }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}
