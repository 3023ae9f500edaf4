{{/*
The connections to databases that the pods of the release have at most, as YAML: a number for each component, in `pooled` of
those who go to the pooler where there is one, and in `direct` of those who go past it in any case.
*/}}
{{- define "maestro.databaseConnections" -}}
{{- $pooled := dict -}}
{{- $direct := dict -}}
{{- range $part, $chart := dict "airflow" "airflow" "mlflow" "mlflow" "feast" "feast" "sensorTrainer" "sensor-trainer" }}
{{- $values := get $.Values $part }}
{{- if $values.enabled }}
{{- $of := include (printf "%s.databaseConnections" $chart) (dict "values" $values) | fromYaml }}
{{- $pooled = merge $pooled ($of.pooled | default dict) }}
{{- $direct = merge $direct $of.direct }}
{{- end }}
{{- end }}
{{- toYaml (dict "pooled" $pooled "direct" $direct) }}
{{- end -}}

{{/* The sum of a map of numbers. */}}
{{- define "maestro.sum" -}}
{{- $sum := 0 -}}
{{- range . -}}
{{- $sum = add $sum (int .) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}
