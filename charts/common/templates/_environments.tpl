{{/*
The environment of a container that opens parts of the platform, by the names in mlops/needs.py: of each what
mlops.config reads, and of no other, since a Secret that is missing keeps a pod from starting. A contract test compares
them.
  (dict "root" $ "needs" (list "s3" "mlflow") "user" "of the object store, where it is not that of tasks")
*/}}
{{- define "common.env" -}}
{{- range .needs }}
{{ include (printf "common.env.%s" .) (dict "root" $.root "user" $.user) }}
{{- end }}
{{- end -}}

{{/* All that common.env knows, as YAML. Who is told everything opens the object store as the last of them says. */}}
{{- define "common.needs" -}}
[airflow, code, ledger, mlflow-reader, mlflow, model-server, notifications, prometheus, pushgateway, redis, s3, sensor-trainer, feast]
{{- end -}}

{{/* What a container is told of each of these, by its name, as YAML. */}}
{{- define "common.environments" -}}
{{- range include "common.needs" . | fromYamlArray }}
{{ . }}:
  {{- include (printf "common.env.%s" .) (dict "root" $) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Airflow's API, as a user who may only read. */}}
{{- define "common.env.airflow" -}}
{{- $user := .root.Values.global.airflow.readOnlyUser -}}
- name: MAESTRO_AIRFLOW_URL
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "airflow") | quote }}
- name: MAESTRO_AIRFLOW_USERNAME
  value: {{ $user.username | quote }}
- name: MAESTRO_AIRFLOW_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $user.existingSecret | default (include "common.fullname" (dict "root" .root "component" "airflow")) }}
      key: read-only-password
{{- end -}}

{{- define "common.env.code" -}}
- name: MAESTRO_CODE_VERSION
  value: {{ include "common.imageTag" (dict "root" .root "name" "task") | quote }}
{{- end -}}

{{/* With the object store: a container has one user there, and this one may open the bucket of features as well. */}}
{{- define "common.env.feast" -}}
{{ include "common.env.s3" (dict "root" .root "user" (.user | default "features")) }}
- name: MAESTRO_FEAST_BUCKET
  value: {{ .root.Values.global.buckets.feast | quote }}
- name: MAESTRO_FEAST_REGISTRY
  value: {{ include "common.postgresql.url" (dict "root" .root "database" "feast" "scheme" "postgresql+psycopg2" "pooled" true) | quote }}
- name: MAESTRO_FEAST_REGISTRY_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.postgresql.secretName" . }}
      key: feast-password
{{- with include "common.postgresql.tlsEnv" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The ledger of promotions, as the user who adds to it. It is verified by its address: a pod may open a database beside it. */}}
{{- define "common.env.ledger" -}}
{{- $verified := eq "yes" (include "common.tls.speaks" (dict "root" .root "component" "postgresql")) | ternary (printf "?sslmode=verify-full&sslrootcert=%s" (include "common.tls.ca" .)) "" -}}
- name: MAESTRO_LEDGER
  value: {{ printf "%s%s" (include "common.postgresql.url" (dict "root" .root "database" "ledger")) $verified | quote }}
- name: MAESTRO_LEDGER_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.postgresql.secretName" . }}
      key: ledger-password
{{- end -}}

{{/* MLflow as the user who may write there, and as the one who may only read; who is told of both is the former. */}}
{{- define "common.env.mlflow" -}}
{{ include "common.mlflow.env" (dict "root" .root "user" "writer") }}
{{- end -}}

{{- define "common.env.mlflow-reader" -}}
{{ include "common.mlflow.env" (dict "root" .root "user" "reader") }}
{{- end -}}

{{- define "common.env.model-server" -}}
- name: MAESTRO_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
# Which models are served, and where: what the model server's chart wrote down. A platform may be without it.
- name: MAESTRO_MODEL_SERVERS
  valueFrom:
    configMapKeyRef:
      name: {{ include "common.fullname" (dict "root" .root "component" "model-server") }}
      key: servers
      optional: true
{{- end -}}

{{/*
By what people are told; the webhook's address, those of mail, and its login are secrets. Without a channel there is
nothing to tell by. A Secret that lacks a key keeps no pod from starting: the message then says so in the log.
*/}}
{{- define "common.env.notifications" -}}
{{- include "common.notifications.env" . | trim -}}
{{- end -}}

{{- define "common.notifications.env" -}}
{{- with .root.Values.global.notifications -}}
{{- if ne (empty .mail.host) (empty .mail.existingSecret) -}}
{{- fail "global.notifications.mail has one of host and existingSecret alone: set host to the mail server and existingSecret to a Secret with the keys from and to, or leave both empty" -}}
{{- end -}}
{{- with .slackWebhookSecret }}
- name: MAESTRO_SLACK_WEBHOOK_URL
  {{- include "common.notifications.secret" (dict "name" . "key" "url") | nindent 2 }}
{{- end }}
{{- with .mail }}
{{- if .host }}
- name: MAESTRO_MAIL_HOST
  value: {{ .host | quote }}
- name: MAESTRO_MAIL_PORT
  value: {{ .port | quote }}
- name: MAESTRO_MAIL_SECURITY
  value: {{ .security | quote }}
{{- range $key := list "from" "to" "username" "password" }}
- name: MAESTRO_MAIL_{{ upper $key }}
  {{- include "common.notifications.secret" (dict "name" $.root.Values.global.notifications.mail.existingSecret "key" $key) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- range $page, $address := .addresses }}
{{- if $address }}
- name: MAESTRO_{{ upper $page }}_ADDRESS
  value: {{ $address | quote }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "common.notifications.secret" -}}
valueFrom:
  secretKeyRef:
    name: {{ .name }}
    key: {{ .key }}
    optional: true
{{- end -}}

{{- define "common.env.prometheus" -}}
- name: MAESTRO_PROMETHEUS_URL
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "prometheus") | quote }}
{{- end -}}

{{- define "common.env.pushgateway" -}}
- name: MAESTRO_PUSHGATEWAY_HOST
  value: {{ include "common.serviceHost" (dict "root" .root "service" "pushgateway") | quote }}
- name: MAESTRO_PUSHGATEWAY_PORT
  value: {{ include "common.servicePort" (dict "root" .root "service" "pushgateway") | quote }}
{{- end -}}

{{/* The online store. */}}
{{- define "common.env.redis" -}}
{{ include "common.redis.env" (dict "root" .root "user" "features") }}
{{- end -}}

{{- define "common.env.s3" -}}
{{ include "common.s3.env" (dict "root" .root "user" (.user | default "tasks")) }}
- name: MAESTRO_DATA_BUCKET
  value: {{ .root.Values.global.buckets.data | quote }}
- name: MAESTRO_REPORTS_BUCKET
  value: {{ .root.Values.global.buckets.reports | quote }}
- name: MAESTRO_PREDICTIONS_BUCKET
  value: {{ .root.Values.global.buckets.predictions | quote }}
{{- end -}}

{{/* A platform without the trainer has no token, and pods that may ask it start all the same. */}}
{{- define "common.env.sensor-trainer" -}}
- name: MAESTRO_SENSOR_TRAINER_URL
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "sensorTrainer") | quote }}
- name: MAESTRO_SENSOR_TRAINER_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "common.sensorTrainer.secretName" . }}
      key: token
      optional: true
{{- end -}}
