{{/*
Probes of a component that keeps a heartbeat in the database. Starting takes 10 to 60 s of CPU, the query 0.1 s.
  "TriggererJob"
*/}}
{{- define "airflow.heartbeatProbes" -}}
startupProbe:
  exec:
    command: [python, -m, mlops.airflow.administration.heartbeat, {{ . }}]
  periodSeconds: 5
  timeoutSeconds: 20
  failureThreshold: 60
livenessProbe:
  exec:
    command: [python, -m, mlops.airflow.administration.heartbeat, {{ . }}]
  periodSeconds: 60
  timeoutSeconds: 20
  failureThreshold: 3
{{- end -}}
