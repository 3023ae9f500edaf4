{{/*
The connections to PostgreSQL that this chart's pods have at most, as YAML: five a process (mlops/stores/feature_store.py),
of the server and of the Job that applies the definitions.
  (dict "values" .Values), those of this chart; see maestro.databaseConnections
*/}}
{{- define "feast.databaseConnections" -}}
pooled:
  feast: {{ mul (include "common.podsAtMost" .) 5 }}
  feast.apply: 5
direct: {}
{{- end -}}
