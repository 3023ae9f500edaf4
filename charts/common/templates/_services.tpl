{{/* The component behind a key of global.services, as YAML. */}}
{{- define "common.serviceComponents" -}}
postgresql: postgresql
postgresqlPooler: postgresql-pooler
minio: minio
mlflow: mlflow
airflow: airflow-api-server
modelServer: model-server
statsd: statsd
pushgateway: pushgateway
prometheus: prometheus
alertmanager: alertmanager
grafana: grafana
redis: redis
feast: feast
sensorTrainer: sensor-trainer
{{- end -}}

{{/*
The short name of a Service, valid in its own namespace: the one in global.services, or its component's.
  (dict "root" $ "service" "mlflow")
*/}}
{{- define "common.serviceHost" -}}
{{- $component := get (include "common.serviceComponents" . | fromYaml) .service -}}
{{- $named := (get .root.Values.global.services .service).name -}}
{{- $named | default (include "common.fullname" (dict "root" .root "component" $component)) -}}
{{- end -}}

{{/*
The port of a Service.
  (dict "root" $ "service" "mlflow")
*/}}
{{- define "common.servicePort" -}}
{{ (get .root.Values.global.services .service).port }}
{{- end -}}

{{/*
http://<host>:<port> of a Service, https:// where it speaks TLS.
  (dict "root" $ "service" "mlflow")
*/}}
{{- define "common.serviceUrl" -}}
{{ include "common.serviceScheme" . }}://{{ include "common.serviceHost" . }}:{{ include "common.servicePort" . }}
{{- end -}}

{{- define "common.serviceScheme" -}}
{{- $component := get (include "common.serviceComponents" . | fromYaml) .service -}}
http{{ if include "common.tls.speaks" (dict "root" .root "component" $component) }}s{{ end }}
{{- end -}}

{{/*
A Service with its first port, which is called like that of the container; more ports may follow.
  (dict "root" $ "service" "mlflow" "port" "http" "annotations" (dict) "pods" "another component than the Service's")
With a "component" that is not the service's own it is one more of its kind, which is called for that component.
*/}}
{{- define "common.service" -}}
{{- $own := get (include "common.serviceComponents" . | fromYaml) .service -}}
{{- $component := .component | default $own -}}
{{- $name := ternary (include "common.serviceHost" .) (include "common.fullname" (dict "root" .root "component" $component)) (eq $component $own) -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "common.metadata" (dict "root" .root "component" $component "role" .role "name" $name) | nindent 2 }}
  {{- $annotations := .annotations | default dict }}
  {{- $speaks := include "common.tls.speaks" (dict "root" .root "component" $own) }}
  {{- if $speaks }}
  {{- /* By which who asks the cluster, as `make ui` does, knows that it speaks TLS, and what verifies it. */}}
  {{- $annotations = merge (dict "maestro/ca-secret" (include "common.tls.secretName" (dict "root" .root "component" "ca"))) $annotations }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    {{- include "common.selectorLabels" (dict "root" .root "component" (.pods | default $component)) | nindent 4 }}
  ports:
    - name: {{ .port }}
      port: {{ include "common.servicePort" . }}
      targetPort: {{ .port }}
{{- end -}}
