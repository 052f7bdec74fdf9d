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

{{/* The hospital's consent: spec of the Hospital, and what its Jobs hold the operator to. */}}
{{- define "umim-hospital.spec" -}}
{{- $hospital := .Values.hospital -}}
federations: {{ toJson $hospital.federations }}
data:
  claimName: {{ include "umim-hospital.claim" (dict "root" . "volume" "data") }}
  {{- with $hospital.data.path }}
  path: {{ . | quote }}
  {{- end }}
  format: {{ $hospital.data.format }}
  task: {{ $hospital.data.task }}
  {{- with $hospital.data.taskName }}
  taskName: {{ . | quote }}
  {{- end }}
  {{- with $hospital.data.labelsFile }}
  labelsFile: {{ . | quote }}
  {{- end }}
workClaimName: {{ include "umim-hospital.claim" (dict "root" . "volume" "work") }}
serviceAccountName: umim-site
{{- with $hospital.queueName }}
queueName: {{ . | quote }}
{{- end }}
{{- with $hospital.maxResources }}
maxResources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $hospital.architectures }}
architectures: {{ toJson . }}
{{- end }}
{{- if not (kindIs "invalid" $hospital.maxEpochs) }}
maxEpochs: {{ int64 $hospital.maxEpochs }}
{{- end }}
{{- with $hospital.timeWindows }}
timeWindows: {{ toJson . }}
{{- end }}
{{- with $hospital.publicKey }}
publicKey: {{ . | quote }}
{{- end }}
privacy:
  allowedArtifacts: {{ toJson $hospital.privacy.allowedArtifacts }}
  {{- if not (kindIs "invalid" $hospital.privacy.clipNorm) }}
  clipNorm: {{ toJson $hospital.privacy.clipNorm }}
  {{- end }}
  noiseMultiplier: {{ toJson $hospital.privacy.noiseMultiplier }}
  minPatients: {{ int64 $hospital.privacy.minPatients }}
  {{- with $hospital.privacy.differentialPrivacy }}
  differentialPrivacy: {{ toJson . }}
  {{- end }}
{{- end }}

{{/* Variables that a site's Job may have, and those that its Secret may hold, as CEL lists. */}}
{{- define "umim-hospital.environment" -}}
['UMIM_CONFIG', 'UMIM_S3_ENDPOINT', 'UMIM_S3_BUCKET', 'UMIM_S3_REGION', 'UMIM_S3_CA', 'UMIM_REDIS_URL',
        'UMIM_REDIS_CA', 'OTEL_EXPORTER_OTLP_ENDPOINT', 'TRACEPARENT', 'OMP_NUM_THREADS']
{{- end }}
{{- define "umim-hospital.credentials" -}}
['UMIM_S3_ACCESS_KEY', 'UMIM_S3_SECRET_KEY', 'UMIM_S3_SESSION_TOKEN', 'UMIM_REDIS_USERNAME',
        'UMIM_REDIS_PASSWORD']
{{- end }}
