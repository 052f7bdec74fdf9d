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
{{ ternary "https" "http" .Values.minio.tls.enabled }}://{{ .Release.Name }}-minio.{{ .Release.Namespace }}.svc:9000
{{- else -}}
{{ .Values.objectStore.endpoint }}
{{- end -}}
{{- end }}

{{- define "umim.objectStore.secret" -}}
{{ .Values.objectStore.existingSecret | default (printf "%s-object-store" .Release.Name) }}
{{- end }}

{{- define "umim.redis.url" -}}
{{- if .Values.redis.enabled -}}
{{ ternary "rediss" "redis" .Values.redis.tls.enabled }}://{{ .Release.Name }}-redis.{{ .Release.Namespace }}.svc:6379/0
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
{{- include "umim.caEnv" (dict "root" . "name" "UMIM_S3_CA" "component" "minio" "ca" .Values.objectStore.ca) }}
{{- end }}

{{/* Secret with certificate and key of the in-cluster MinIO or Redis. Call with (dict "root" $ "component" "minio"). */}}
{{- define "umim.tls.secret" -}}
{{ (index .root.Values .component).tls.existingSecret | default (printf "%s-%s-tls" .root.Release.Name .component) }}
{{- end }}

{{/* Makes certificate, key and CA of the in-cluster MinIO or Redis: those in the cluster, so that upgrades keep them,
     else new ones, whose CA signs nothing more: its key is thrown away. Leaves them in .Values.COMPONENT.tls.made, since
     several templates need the same. Renders nothing. Call with (dict "root" $ "component" "minio"). */}}
{{- define "umim.tls.make" -}}
{{- $tls := (index .root.Values .component).tls -}}
{{- if not (hasKey $tls "made") -}}
{{- $found := (lookup "v1" "Secret" .root.Release.Namespace (include "umim.tls.secret" .)).data | default dict -}}
{{- if and (hasKey $found "tls.crt") (hasKey $found "tls.key") (hasKey $found "ca.crt") -}}
{{- $_ := set $tls "made" (dict "crt" (get $found "tls.crt") "key" (get $found "tls.key") "ca" (get $found "ca.crt")) -}}
{{- else -}}
{{- $service := printf "%s-%s" .root.Release.Name .component -}}
{{- $host := printf "%s.%s.svc" $service .root.Release.Namespace -}}
{{- $names := list $host (printf "%s.cluster.local" $host) (printf "%s.%s" $service .root.Release.Namespace) $service "localhost" -}}
{{- $ca := genCAWithKey (printf "%s-ca" $service) 3650 (genPrivateKey "ecdsa") -}}
{{- $pair := genSignedCertWithKey $service (list "127.0.0.1") $names 3650 $ca (genPrivateKey "ecdsa") -}}
{{- $_ := set $tls "made" (dict "crt" ($pair.Cert | b64enc) "key" ($pair.Key | b64enc) "ca" ($ca.Cert | b64enc)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secret that "umim.tls.make" has made. Call with (dict "root" $ "component" "minio"). */}}
{{- define "umim.tls.secretManifest" -}}
{{- include "umim.tls.make" . -}}
{{- $made := (index .root.Values .component).tls.made -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "umim.tls.secret" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "umim.labels" . | nindent 4 }}
type: kubernetes.io/tls
data:
  ca.crt: {{ $made.ca }}
  tls.crt: {{ $made.crt }}
  tls.key: {{ $made.key }}
{{- end }}

{{/* Annotation by which a Pod starts anew with a new certificate of the chart's own.
     Call with (dict "root" $ "component" "minio"). */}}
{{- define "umim.tls.checksum" -}}
{{- $tls := (index .root.Values .component).tls -}}
{{- if and $tls.enabled (not $tls.existingSecret) -}}
{{- include "umim.tls.make" . -}}
annotations:
  checksum/tls: {{ $tls.made.crt | sha256sum }}
{{- end -}}
{{- end }}

{{/* The variable with the CA of store or Redis, where there is one. A CA is public: it is written out, so that who reads
     it needs no right to read a Secret with a key, and the operator starts anew when it changes.
     Call with (dict "root" $ "name" VARIABLE "component" "minio" "ca" CA-VALUES). */}}
{{- define "umim.caEnv" -}}
{{- $server := index .root.Values .component -}}
{{- if and $server.enabled $server.tls.enabled $server.tls.existingSecret }}
- name: {{ .name }}
  valueFrom:
    # Without a CA the certificate is one of a public authority.
    secretKeyRef: {name: {{ $server.tls.existingSecret }}, key: ca.crt, optional: true}
{{- else if and $server.enabled $server.tls.enabled }}
{{- include "umim.tls.make" . }}
- name: {{ .name }}
  value: {{ $server.tls.made.ca | b64dec | quote }}
{{- else if $server.enabled }}
{{- else if .ca.bundle }}
- name: {{ .name }}
  value: {{ .ca.bundle | quote }}
{{- else if .ca.existingConfigMap }}
- name: {{ .name }}
  valueFrom:
    configMapKeyRef: {name: {{ .ca.existingConfigMap }}, key: {{ .ca.key }}}
{{- else if .ca.existingSecret }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .ca.existingSecret }}, key: {{ .ca.key }}}
{{- end }}
{{- end }}

{{/* Variables of umim.settings.RedisSettings. */}}
{{- define "umim.redis.env" -}}
{{- with include "umim.redis.url" . -}}
- name: UMIM_REDIS_URL
  value: {{ . | quote }}
{{- end }}
{{- include "umim.caEnv" (dict "root" . "name" "UMIM_REDIS_CA" "component" "redis" "ca" .Values.redis.ca) }}
{{- if or .Values.redis.enabled .Values.redis.existingSecret }}
{{- $secret := include "umim.redis.secret" . }}
{{ include "umim.secretEnv" (dict "name" "UMIM_REDIS_USERNAME" "secret" $secret "key" "username") }}
{{ include "umim.secretEnv" (dict "name" "UMIM_REDIS_PASSWORD" "secret" $secret "key" "password") }}
{{- end }}
{{- end }}

{{/* Where the operator's Pods may run. */}}
{{- define "umim.operator.placement" -}}
{{- with .Values.operator.nodeSelector -}}
nodeSelector: {{- toYaml . | nindent 2 }}
{{ end }}
{{- with .Values.operator.tolerations -}}
tolerations: {{- toYaml . | nindent 2 }}
{{ end }}
{{- with .Values.operator.affinity -}}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
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
      - {key: app.kubernetes.io/component, operator: In, values: [operator, store-setup, test]}
- namespaceSelector: {}
  podSelector:
    matchExpressions:
      - {key: umim.dev/role, operator: Exists}
{{- end }}

{{/* Where operator and Jobs send traces and metrics; empty: nowhere. */}}
{{- define "umim.telemetry.endpoint" -}}
{{- if .Values.telemetry.collector.enabled -}}
http://{{ .Release.Name }}-collector.{{ .Release.Namespace }}.svc:4318
{{- else -}}
{{ .Values.telemetry.otlpEndpoint }}
{{- end -}}
{{- end }}

{{/* Where the collector sends traces; empty: nowhere. */}}
{{- define "umim.telemetry.traces" -}}
{{- if .Values.telemetry.jaeger.enabled -}}
http://{{ .Release.Name }}-jaeger.{{ .Release.Namespace }}.svc:4318
{{- else -}}
{{ .Values.telemetry.collector.tracesEndpoint }}
{{- end -}}
{{- end }}

{{/* Configuration of the OpenTelemetry Collector. images/collector has these components and no others. */}}
{{- define "umim.collector.config" -}}
{{- $traces := include "umim.telemetry.traces" . -}}
extensions:
  health_check: {endpoint: "0.0.0.0:13133"}
receivers:
  otlp:
    protocols:
      http: {endpoint: "0.0.0.0:4318"}
processors:
  memory_limiter: {check_interval: 1s, limit_percentage: 75, spike_limit_percentage: 20}
  batch: {timeout: 2s}
exporters:
  prometheus:
    endpoint: "0.0.0.0:8889"
    # Exemplars are told in OpenMetrics only.
    enable_open_metrics: true
    # What a Job told is forgotten this long after its end.
    metric_expiration: 5m
{{- if $traces }}
  otlphttp/traces: {endpoint: {{ $traces | quote }}}
{{- else }}
  debug: {verbosity: basic}
{{- end }}
service:
  extensions: [health_check]
  telemetry:
    metrics: {level: none}
    logs: {encoding: json}
  pipelines:
    metrics:
      receivers: [otlp]
      processors: [memory_limiter, batch]
      exporters: [prometheus]
    traces:
      receivers: [otlp]
      processors: [memory_limiter, batch]
      exporters: [{{ ternary "otlphttp/traces" "debug" (ne $traces "") }}]
{{- end }}

{{/* Configuration of Prometheus. It scrapes the collector, to which operator and Jobs push. */}}
{{- define "umim.prometheus.config" -}}
global:
  scrape_interval: {{ .Values.telemetry.prometheus.scrapeInterval }}
  evaluation_interval: {{ .Values.telemetry.prometheus.scrapeInterval }}
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: umim
    # job and instance are those of the process that measured, not the collector's.
    honor_labels: true
    static_configs:
      - targets: ["{{ .Release.Name }}-collector.{{ .Release.Namespace }}.svc:8889"]
{{- end }}

{{/* Configuration of Jaeger, which is a Collector with a store of its own. */}}
{{- define "umim.jaeger.config" -}}
extensions:
  healthcheckv2:
    use_v2: true
    http: {endpoint: "0.0.0.0:13133"}
  jaeger_storage:
    backends:
      traces:
        memory: {max_traces: {{ .Values.telemetry.jaeger.maxTraces }}}
  jaeger_query:
    storage: {traces: traces}
    http: {endpoint: "0.0.0.0:16686"}
receivers:
  otlp:
    protocols:
      http: {endpoint: "0.0.0.0:4318"}
exporters:
  jaeger_storage_exporter: {trace_storage: traces}
service:
  extensions: [healthcheckv2, jaeger_storage, jaeger_query]
  telemetry:
    metrics: {level: none}
    logs: {encoding: json}
  pipelines:
    # The collector has batched them.
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
{{- end }}

{{/* Alert rules. With telemetry.alerts.runbooksUrl their runbooks are linked to there, else named by their path. */}}
{{- define "umim.alerts" -}}
{{- $rules := .Files.Get "files/alerts.yaml" -}}
{{- with .Values.telemetry.alerts.runbooksUrl -}}
{{- $rules = regexReplaceAll "docs/runbooks/([A-Za-z]+)[.]md" $rules (printf "%s/${1}.html" (trimSuffix "/" .)) -}}
{{- end -}}
{{ $rules }}
{{- end }}
