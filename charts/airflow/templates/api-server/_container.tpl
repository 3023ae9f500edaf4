{{/*
The api-server, in a pod of its own or as a sidecar of the scheduler.
*/}}
{{- define "airflow.apiServer" -}}
{{- include "airflow.container" (dict "root" . "name" "api-server" "values" .Values.apiServer) }}
  ports:
    - name: http
      containerPort: 8080
  # Alive means that it answers, whatever the database does: a restart would not cure that.
  startupProbe:
    httpGet: {path: /api/v2/version, port: http}
    periodSeconds: 3
    timeoutSeconds: 10
    failureThreshold: 100
  readinessProbe:
    httpGet: {path: /api/v2/monitor/health, port: http}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 3
  livenessProbe:
    httpGet: {path: /api/v2/version, port: http}
    periodSeconds: 30
    timeoutSeconds: 20
    failureThreshold: 4
{{- end -}}
