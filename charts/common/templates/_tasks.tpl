{{/*
The environment of a task pod. Its keys are the fields of mlops.config.Settings; a contract test compares them. A Secret
that is missing keeps a pod from starting: one that has no use for the feature store is told no passwords of it, and one
that has none for the sensor trainer no token.
  (dict "root" $ "featureStore" false "sensorTrainer" false), each true where it is not said
*/}}
{{- define "common.taskEnv" -}}
- name: MLFLOW_TRACKING_URI
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "mlflow") | quote }}
{{ include "common.s3.env" . }}
- name: MAESTRO_DATA_BUCKET
  value: {{ .root.Values.global.buckets.data | quote }}
- name: MAESTRO_REPORTS_BUCKET
  value: {{ .root.Values.global.buckets.reports | quote }}
- name: MAESTRO_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: MAESTRO_CODE_VERSION
  value: {{ include "common.imageTag" (dict "root" .root "name" "task") | quote }}
- name: MAESTRO_MODEL_SERVER_DEPLOYMENT
  value: {{ include "common.fullname" (dict "root" .root "component" "model-server") | quote }}
- name: MAESTRO_MODEL_SERVER_URL
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "modelServer") | quote }}
- name: MAESTRO_FEAST_BUCKET
  value: {{ .root.Values.global.buckets.feast | quote }}
- name: MAESTRO_FEAST_REGISTRY
  value: {{ include "common.postgresql.url" (dict "root" .root "database" "feast" "scheme" "postgresql+psycopg2") | quote }}
- name: MAESTRO_REDIS_HOST
  value: {{ include "common.redis.host" . | quote }}
- name: MAESTRO_REDIS_PORT
  value: {{ include "common.redis.port" . | quote }}
{{ include "common.featureStorePasswords" . }}
- name: MAESTRO_STATSD_HOST
  value: {{ include "common.serviceHost" (dict "root" .root "service" "statsd") | quote }}
- name: MAESTRO_STATSD_PORT
  value: {{ include "common.servicePort" (dict "root" .root "service" "statsd") | quote }}
- name: MAESTRO_SENSOR_TRAINER_URL
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "sensorTrainer") | quote }}
{{ include "common.sensorTrainerToken" . }}
{{- with include "common.notificationsEnv" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/*
Entries of the environment: the passwords of Feast's registry and of the online store.
  (dict "root" $ "featureStore" false), true where it is not said
*/}}
{{- define "common.featureStorePasswords" -}}
{{- if eq (toString .featureStore) "false" -}}
- name: MAESTRO_FEAST_REGISTRY_PASSWORD
  value: not-told
- name: MAESTRO_REDIS_PASSWORD
  value: not-told
{{- else -}}
- name: MAESTRO_FEAST_REGISTRY_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.postgresql.secretName" . }}
      key: feast-password
- name: MAESTRO_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.redis.secretName" . }}
      key: redis-password
{{- end -}}
{{- end -}}

{{/*
The entry of the environment that holds the sensor trainer's token. A platform without the trainer has none, and its
other pods start all the same.
  (dict "root" $ "sensorTrainer" false), true where it is not said
*/}}
{{- define "common.sensorTrainerToken" -}}
- name: MAESTRO_SENSOR_TRAINER_TOKEN
{{- if eq (toString .sensorTrainer) "false" }}
  value: not-told
{{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ include "common.sensorTrainer.secretName" . }}
      key: token
      optional: true
{{- end }}
{{- end -}}

{{/*
The entry of the environment that holds the webhook's address, which is a secret, or nothing.
  (dict "root" $)
*/}}
{{- define "common.notificationsEnv" -}}
{{- with .root.Values.global.notifications.slackWebhookSecret -}}
- name: MAESTRO_SLACK_WEBHOOK_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
      optional: true
{{- end -}}
{{- end -}}
