{{- define "sensor-trainer.databaseEnv" -}}
- name: HOME
  value: /tmp
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
*/}}
{{- define "sensor-trainer.env" -}}
{{ include "sensor-trainer.databaseEnv" . }}
{{ include "common.redis.env" (dict "root" . "user" "queue") }}
{{- include "common.env" (dict "root" . "needs" (list "mlflow")) }}
- name: SENSOR_DATASET
  value: {{ .Values.dataset | quote }}
- name: SENSOR_NAMES
  value: {{ join "," .Values.sensors | quote }}
- name: SENSOR_MINIMUM_NEW_READINGS
  value: {{ int64 .Values.minimumNewReadings | quote }}
- name: SENSOR_TRAINING_DAYS
  value: {{ int64 .Values.trainingDays | quote }}
- name: SENSOR_RETENTION_DAYS
  value: {{ int64 .Values.retentionDays | quote }}
{{- end -}}
