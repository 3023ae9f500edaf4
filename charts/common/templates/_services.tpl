{{/* The component behind a key of global.services, as YAML. */}}
{{- define "common.serviceComponents" -}}
postgresql: postgresql
minio: minio
mlflow: mlflow
airflow: airflow-api-server
modelServer: model-server
statsd: airflow-statsd
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
http://<host>:<port> of a Service.
  (dict "root" $ "service" "mlflow")
*/}}
{{- define "common.serviceUrl" -}}
http://{{ include "common.serviceHost" . }}:{{ include "common.servicePort" . }}
{{- end -}}
