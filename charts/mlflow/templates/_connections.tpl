{{/*
The connections to PostgreSQL that this chart's pods have at most, as YAML: those of the server, of whose processes each has
three stores, and those of the Job that migrates.
  (dict "values" .Values), those of this chart; see maestro.databaseConnections
*/}}
{{- define "mlflow.databaseConnections" -}}
pooled:
  mlflow.workers: {{ mul (include "common.podsAtMost" .) .values.workers 3 .values.databaseConnections }}
direct:
  mlflow.migrate: {{ .values.databaseConnections }}
{{- end -}}
