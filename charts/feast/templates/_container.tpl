{{/*
What the server opens; the definitions are applied with MLflow beside it.
*/}}
{{- define "feast.env" -}}
- name: HOME
  value: /tmp
{{- include "common.env" (dict "root" . "needs" (list "s3" "feast" "redis")) }}
{{- end -}}

{{- define "feast.probes" -}}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 2
  timeoutSeconds: 5
  # Five minutes: importing Feast takes five seconds, and many times that on a node that is busy.
  failureThreshold: 150
readinessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
