{{/*
What the server opens; the definitions are applied with MLflow beside it.
*/}}
{{- define "feast.env" -}}
- name: HOME
  value: /tmp
{{- with include "common.tls.env" (dict "root" .) }}
{{ . }}
{{- end }}
{{- include "common.env" (dict "root" . "user" "feast" "needs" (list "feast" "redis")) }}
{{- end -}}
