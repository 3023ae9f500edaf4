{{/*
The api-server, in a pod of its own or as a sidecar of the scheduler.
*/}}
{{- define "airflow.apiServer" -}}
{{- include "airflow.container" (dict "root" . "name" "api-server" "values" .Values.apiServer) }}
  ports:
    - name: http
      containerPort: 8080
  # Alive means that it answers, whatever the database does: a restart would not cure that. These two paths are asked
  # beside the crowd (mlops/airflow/guard/crowd.py), and one that is merely busy answers within ten minutes.
  startupProbe:
    {{ include "common.httpGet" (dict "root" . "component" "airflow-api-server" "path" "/api/v2/version" "port" "http") }}
    periodSeconds: 5
    timeoutSeconds: 20
    failureThreshold: 240
  readinessProbe:
    {{ include "common.httpGet" (dict "root" . "component" "airflow-api-server" "path" "/api/v2/monitor/health" "port" "http") }}
    periodSeconds: 10
    timeoutSeconds: 30
    failureThreshold: 6
  livenessProbe:
    {{ include "common.httpGet" (dict "root" . "component" "airflow-api-server" "path" "/api/v2/version" "port" "http") }}
    periodSeconds: 30
    timeoutSeconds: 30
    failureThreshold: 20
{{- end -}}
