{{/*
The connections to PostgreSQL that this chart's pods have at most, as YAML: eight of a pod of the API
(mlops/sensor_trainer/api/app.py), three of a worker, of which one tells that it lives, and that of the migration.
  (dict "values" .Values), those of this chart; see maestro.databaseConnections
*/}}
{{- define "sensor-trainer.databaseConnections" -}}
direct:
  sensorTrainer: {{ mul (include "common.podsAtMost" .) 8 }}
  sensorTrainer.worker: {{ mul (include "common.podsAtMost" (dict "values" .values.worker)) 3 }}
  sensorTrainer.migrate: 1
{{- end -}}
