{{/* Whether KEDA scales any set of workers: "yes" or nothing. */}}
{{- define "airflow.keda" -}}
{{- range include "airflow.workerSets" (dict "values" .Values) | fromYaml -}}
{{- if .keda.enabled -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where Airflow's database is, for KEDA, which asks from its own namespace. It knows nothing of our authority. */}}
{{- define "airflow.kedaDatabase" -}}
{{- $root := dict "root" . -}}
{{- $elsewhere := .Values.global.postgresql.external.enabled -}}
host: {{ include "common.postgresql.host" $root }}{{ if not $elsewhere }}.{{ .Release.Namespace }}{{ end }}
port: {{ include "common.postgresql.port" $root | quote }}
userName: airflow
dbName: airflow
sslmode: {{ ternary "require" "prefer" (eq "yes" (include "common.tls.speaks" (dict "root" . "component" "postgresql"))) }}
{{- end -}}

{{/*
How many workers there is work for, in SQL: the tasks of their queues that wait or run, and how many of these one takes.
Deferred ones wait in the triggerer.
  (dict "root" $ "values" values of airflow.workerSets)
*/}}
{{- define "airflow.kedaQuery" -}}
{{- if .values.keda.query -}}
{{- tpl .values.keda.query .root -}}
{{- else -}}
{{- $queues := list -}}
{{- range splitList "," .values.queue -}}
{{- $queues = append $queues (printf "'%s'" .) -}}
{{- end -}}
SELECT ceil(count(*)::decimal / {{ dig "celery" "worker_concurrency" 16 .root.Values.config | int }}) FROM task_instance WHERE state IN ('queued', 'running') AND queue IN ({{ join ", " $queues }})
{{- end -}}
{{- end -}}
