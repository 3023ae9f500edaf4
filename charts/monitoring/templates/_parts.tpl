{{/*
Whether somebody asks for metrics: "yes" or nothing. Without it there are only the places that metrics are sent to.
*/}}
{{- define "monitoring.measured" -}}
{{- if or .Values.prometheus.enabled .Values.operator.enabled -}}yes{{- end -}}
{{- end -}}

{{/*
Whether Prometheus, and Alertmanager, are of our own.
*/}}
{{- define "monitoring.ownPrometheus" -}}
{{- if and .Values.prometheus.enabled (not .Values.operator.enabled) -}}yes{{- end -}}
{{- end -}}

{{- define "monitoring.ownAlertmanager" -}}
{{- if and (include "monitoring.ownPrometheus" .) .Values.alertmanager.enabled -}}yes{{- end -}}
{{- end -}}

{{/*
Which of the switchable parts are there, as YAML: the component, and whether.
*/}}
{{- define "monitoring.parts" -}}
{{- $measured := eq (include "monitoring.measured" .) "yes" -}}
pushgateway: {{ .Values.pushgateway.enabled }}
postgresql-exporter: {{ and $measured .Values.postgresqlExporter.enabled }}
redis-exporter: {{ and $measured .Values.redisExporter.enabled }}
pod-states: {{ and $measured .Values.podStates.enabled }}
{{- end -}}

{{/*
What is asked for metrics, as YAML: the component, its port and path, and whether labels of what it shows stay as they
are (a push gateway speaks for others).
*/}}
{{- define "monitoring.targets" -}}
{{- $parts := include "monitoring.parts" . | fromYaml -}}
{{- $targets := dict "statsd" (dict "port" 9102) -}}
{{- range $component, $target := dict "pushgateway" (dict "port" 9091 "honorLabels" true) "postgresql-exporter" (dict "port" 9187) "redis-exporter" (dict "port" 9121) "pod-states" (dict "port" 8080 "honorLabels" true) -}}
{{- if get $parts $component -}}
{{- $_ := set $targets $component $target -}}
{{- end -}}
{{- end -}}
{{- if include "monitoring.ownPrometheus" . -}}
{{- $_ := set $targets "prometheus" (dict "port" 9090) -}}
{{- end -}}
{{- if include "monitoring.ownAlertmanager" . -}}
{{- $_ := set $targets "alertmanager" (dict "port" 9093) -}}
{{- end -}}
{{- range $component, $target := .Values.targets -}}
{{- if not (and (eq $component "minio") $.Values.global.s3.external.enabled) -}}
{{- $_ := set $targets $component $target -}}
{{- end -}}
{{- end -}}
{{- toYaml $targets -}}
{{- end -}}

{{/*
The name of the Service that leads to each pod of a component.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "monitoring.targetHost" -}}
{{- include "common.fullname" (dict "root" .root "component" (printf "%s-metrics" .component)) -}}
{{- end -}}

{{/*
The name in the certificate of a target that is asked by https, as its address is a pod's; nothing where it is asked in the
clear.
  (dict "root" $ "component" "mlflow" "port" 5000)
*/}}
{{- define "monitoring.targetServerName" -}}
{{- if include "common.tls.speaks" . -}}
{{- include "common.tls.names" . | fromJsonArray | first -}}
{{- end -}}
{{- end -}}

{{/*
How PostgreSQL's exporter connects: our own server as all do, another as values say.
*/}}
{{- define "monitoring.postgresqlTLS" -}}
{{- if include "common.tls.speaks" (dict "root" . "component" "postgresql") -}}
verify-full&sslrootcert={{ include "common.tls.ca" . }}
{{- else -}}
{{ .Values.postgresqlExporter.sslmode }}
{{- end -}}
{{- end -}}

{{/*
The rules by file, as YAML, with the addresses of their pages.
*/}}
{{- define "monitoring.rules" -}}
{{- range $path, $_ := .Files.Glob "files/rules/*.yaml" }}
{{ base $path }}: |
  {{- $.Files.Get $path | replace "docs/runbooks/" $.Values.rules.runbooks | trim | nindent 2 }}
{{- end }}
{{- with .Values.rules.groups }}
own.yaml: |
  groups:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/*
The dashboards by file, as YAML.
*/}}
{{- define "monitoring.dashboards" -}}
{{- range $path, $_ := .Files.Glob "files/dashboards/*.json" }}
{{ base $path }}: |
  {{- $.Files.Get $path | trim | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The Secret with the password of Grafana's admin.
  (dict "root" $ "existing" .Values.grafana.adminUser.existingSecret)
*/}}
{{- define "monitoring.grafanaSecretName" -}}
{{- .existing | default (include "common.fullname" (dict "root" .root "component" "grafana")) -}}
{{- end -}}

{{/*
The Prometheus that Grafana asks, or nothing where nobody says which.
*/}}
{{- define "monitoring.grafanaSource" -}}
{{- if .Values.grafana.prometheusUrl -}}
{{- .Values.grafana.prometheusUrl -}}
{{- else if include "monitoring.ownPrometheus" . -}}
{{- include "common.serviceUrl" (dict "root" . "service" "prometheus") -}}
{{- end -}}
{{- end -}}

{{/*
The probes of a small server: ready where it answers, and restarted where it has not for ten minutes.
  (dict "ready" "/-/ready" "alive" "/-/healthy" "port" "metrics"), the same path where no other one is given
*/}}
{{- define "monitoring.probes" -}}
readinessProbe:
  httpGet: {path: {{ .ready }}, port: {{ .port }}}
  timeoutSeconds: 10
livenessProbe:
  httpGet: {path: {{ .alive | default .ready }}, port: {{ .port }}}
  periodSeconds: 30
  timeoutSeconds: 30
  failureThreshold: 20
{{- end -}}
