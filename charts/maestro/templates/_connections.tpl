{{/*
The connections to PostgreSQL that the pods of the release have at most, as YAML: a number for each component.
*/}}
{{- define "maestro.databaseConnections" -}}
{{- range $part, $chart := dict "airflow" "airflow" "mlflow" "mlflow" "feast" "feast" "sensorTrainer" "sensor-trainer" }}
{{- $values := get $.Values $part }}
{{- if $values.enabled }}
{{ include (printf "%s.databaseConnections" $chart) (dict "values" $values) }}
{{- end }}
{{- end }}
{{- end -}}
