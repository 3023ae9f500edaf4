{{/*
Whether Airflow sends metrics, as it reads the setting itself: a text, or nothing.
  (dict "values" .Values), those of this chart
*/}}
{{- define "airflow.sendsMetrics" -}}
{{- if has (((.values.config).metrics).statsd_on | toString | lower) (list "true" "t" "1") -}}yes{{- end -}}
{{- end -}}
