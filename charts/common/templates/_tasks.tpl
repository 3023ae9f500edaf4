{{/*
The environment of a task pod. Its keys are the fields of mlops.config.Settings; a contract test compares them.
  (dict "root" $)
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
{{- with include "common.notificationsEnv" . }}
{{ . }}
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
