{{/* Labels of every object. Call with (dict "root" $ "component" "operator"). */}}
{{- define "umim.labels" -}}
{{ include "umim.selectorLabels" . }}
app.kubernetes.io/part-of: umim
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Labels that never change, for selectors. */}}
{{- define "umim.selectorLabels" -}}
app.kubernetes.io/name: umim
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Image of a component: registry/repository:tag, with @digest where one is set. */}}
{{- define "umim.image" -}}
{{- $image := index .root.Values.image .component -}}
{{- $digest := ternary (printf "@%s" $image.digest) "" (ne $image.digest "") -}}
{{- printf "%s/%s:%s%s" .root.Values.image.registry $image.repository ($image.tag | default .root.Values.image.tag) $digest -}}
{{- end }}

{{/* What every Pod shares: the user of all images, the restricted Pod Security Standard, pull Secrets. */}}
{{- define "umim.podDefaults" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "umim.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "umim.operatorServiceAccount" -}}
{{ .Release.Name }}-operator
{{- end }}

{{- define "umim.objectStore.endpoint" -}}
{{- if .Values.minio.enabled -}}
http://{{ .Release.Name }}-minio.{{ .Release.Namespace }}.svc:9000
{{- else -}}
{{ .Values.objectStore.endpoint }}
{{- end -}}
{{- end }}

{{- define "umim.objectStore.secret" -}}
{{ .Values.objectStore.existingSecret | default (printf "%s-object-store" .Release.Name) }}
{{- end }}

{{- define "umim.redis.url" -}}
{{- if .Values.redis.enabled -}}
redis://{{ .Release.Name }}-redis.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{ .Values.redis.url }}
{{- end -}}
{{- end }}

{{- define "umim.redis.secret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" .Release.Name) }}
{{- end }}

{{/* One variable from a Secret. Call with (dict "name" .. "secret" .. "key" ..). */}}
{{- define "umim.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}
{{- end }}

{{/* Variables of umim.settings.StoreSettings. */}}
{{- define "umim.objectStore.env" -}}
{{- $secret := include "umim.objectStore.secret" . -}}
- name: UMIM_S3_ENDPOINT
  value: {{ include "umim.objectStore.endpoint" . | quote }}
- name: UMIM_S3_BUCKET
  value: {{ .Values.objectStore.bucket | quote }}
- name: UMIM_S3_REGION
  value: {{ .Values.objectStore.region | quote }}
{{ include "umim.secretEnv" (dict "name" "UMIM_S3_ACCESS_KEY" "secret" $secret "key" "accessKey") }}
{{ include "umim.secretEnv" (dict "name" "UMIM_S3_SECRET_KEY" "secret" $secret "key" "secretKey") }}
{{- end }}

{{/* A value of a generated Secret: the one in the cluster, so that upgrades keep it, else a new random one.
     Call with (dict "root" $ "secret" NAME "key" KEY). The result is base64. */}}
{{- define "umim.keptPassword" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if and $found (hasKey ($found.data | default dict) .key) -}}
{{ index $found.data .key }}
{{- else -}}
{{ randAlphaNum 40 | b64enc }}
{{- end -}}
{{- end }}

{{/* Peers of a NetworkPolicy: UMIM's own Pods, in this namespace and in those of the rounds. */}}
{{- define "umim.clients" -}}
- podSelector:
    matchExpressions:
      - {key: app.kubernetes.io/instance, operator: In, values: [{{ .Release.Name }}]}
      - {key: app.kubernetes.io/component, operator: In, values: [operator, store-setup]}
- namespaceSelector: {}
  podSelector:
    matchExpressions:
      - {key: umim.dev/role, operator: Exists}
{{- end }}
