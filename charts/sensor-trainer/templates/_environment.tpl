{{- define "sensor-trainer.databaseEnv" -}}
- name: HOME
  value: /tmp
{{- with include "common.tls.env" (dict "root" .) }}
{{ . }}
{{- end }}
{{ include "common.postgresql.env" (dict "root" . "database" "sensors") }}
{{- end -}}

{{- define "sensor-trainer.tokenEnv" -}}
- name: SENSOR_TRAINER_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "common.sensorTrainer.secretName" (dict "root" .) }}
      key: token
{{- end -}}

{{/*
Its keys are the fields of mlops.config.SensorSettings. Helm would write a large number with an exponent.
  (dict "root" $ "needs" (list "mlflow-reader")); the worker, which registers what it trains, needs mlflow and ledger
*/}}
{{- define "sensor-trainer.env" -}}
{{- $values := .root.Values -}}
{{ include "sensor-trainer.databaseEnv" .root }}
{{ include "common.redis.env" (dict "root" .root "user" "queue") }}
{{- include "common.env" (dict "root" .root "needs" .needs) }}
- name: SENSOR_DATASET
  value: {{ $values.dataset | quote }}
- name: SENSOR_NAMES
  value: {{ join "," $values.sensors | quote }}
- name: SENSOR_MINIMUM_NEW_READINGS
  value: {{ int64 $values.minimumNewReadings | quote }}
- name: SENSOR_TRAINING_DAYS
  value: {{ int64 $values.trainingDays | quote }}
- name: SENSOR_RETENTION_DAYS
  value: {{ int64 $values.retentionDays | quote }}
{{- end -}}
