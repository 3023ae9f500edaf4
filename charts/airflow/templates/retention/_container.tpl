{{/*
Removes old runs, and what Airflow keeps of them, from its database: of each table it says how many rows. Not into tables of
an archive, which would lie on the same volume. The newest scheduled run of each DAG stays.
*/}}
{{- define "airflow.retention" -}}
- name: retention
  {{- include "common.containerImage" (dict "root" . "image" "airflow") | nindent 2 }}
  args:
    - sh
    - -euc
    - |
      airflow db clean --clean-before-timestamp "$(date --utc --date='{{ .Values.retention.days }} days ago' +%FT%T+00:00)" --skip-archive --yes
  env:
    {{- include "airflow.env" (dict "root" . "name" "setup") | nindent 4 }}
  resources:
    {{- toYaml .Values.setup.resources | nindent 4 }}
  {{- include "common.containerDefaults" . | nindent 2 }}
    {{- include "airflow.volumeMounts" (dict "root" .) | nindent 4 }}
{{- end -}}
