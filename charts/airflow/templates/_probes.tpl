{{/*
Probes of a component that keeps a heartbeat in the database. Starting takes 10 to 60 s of CPU, the query 0.1 s.
  (dict "job" "TriggererJob")
*/}}
{{- define "airflow.heartbeatProbes" -}}
startupProbe:
  exec:
    command: [python, -m, mlops.airflow.administration.heartbeat, {{ .job }}]
  periodSeconds: 5
  timeoutSeconds: 20
  failureThreshold: 60
livenessProbe:
  exec:
    command: [python, -m, mlops.airflow.administration.heartbeat, {{ .job }}]
  periodSeconds: 60
  timeoutSeconds: 20
  failureThreshold: 3
{{- end -}}

{{/*
Probes of the api-server. Alive means that it answers, whatever the database does: a restart would not cure that.
*/}}
{{- define "airflow.apiServerProbes" -}}
startupProbe:
  httpGet:
    path: /api/v2/version
    port: http
  periodSeconds: 3
  timeoutSeconds: 10
  failureThreshold: 100
readinessProbe:
  httpGet:
    path: /api/v2/monitor/health
    port: http
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
livenessProbe:
  httpGet:
    path: /api/v2/version
    port: http
  periodSeconds: 30
  timeoutSeconds: 20
  failureThreshold: 4
{{- end -}}
