{{/*
What the server opens; the definitions are applied with MLflow beside it.
*/}}
{{- define "feast.env" -}}
- name: HOME
  value: /tmp
{{- include "common.env" (dict "root" . "needs" (list "s3" "feast" "redis")) }}
{{- end -}}
