{{/*
The environment of the server and of the migration: where the tables lie.
  (dict "root" $ "pooled" true), for who needs no session of its own
*/}}
{{- define "mlflow.databaseEnv" -}}
- name: HOME
  value: /tmp
{{- with include "common.tls.env" (dict "root" .root) }}
{{ . }}
{{- end }}
- name: MLFLOW_BACKEND_STORE_URI
  value: {{ include "common.postgresql.url" (dict "root" .root "database" "mlflow" "scheme" "postgresql+psycopg2" "pooled" .pooled) | quote }}
{{ include "common.postgresql.env" (dict "root" .root "database" "mlflow" "pooled" .pooled) }}
- name: MLFLOW_SQLALCHEMYSTORE_POOL_SIZE
  value: "1"
- name: MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW
  value: {{ sub (int .root.Values.databaseConnections) 1 | quote }}
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
{{- end -}}

{{- define "mlflow.serverEnv" -}}
{{ include "mlflow.databaseEnv" (dict "root" . "pooled" true) }}
{{ include "common.s3.env" (dict "root" . "user" "mlflow") }}
# Jobs of the server itself, such as LLM judges, are not used here and take four times the memory.
- name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION
  value: "false"
# What each of its two users says; images/mlflow reads them.
{{- range tuple "writer" "reader" }}
- name: TRACKING_{{ upper . }}_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.mlflow.secretName" (dict "root" $) }}
      key: {{ . }}-password
{{- end }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: MLFLOW_SERVER_ALLOWED_HOSTS
  value: {{ include "mlflow.allowedHosts" . | quote }}
{{- with .Values.corsAllowedOrigins }}
- name: MLFLOW_SERVER_CORS_ALLOWED_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
{{- end -}}

{{/*
The Host headers the server answers to: the Service's names, this pod's address for Prometheus, and the names that a
port-forward is called by; each with and without a port.
*/}}
{{- define "mlflow.allowedHosts" -}}
{{- $service := include "common.serviceHost" (dict "root" . "service" "mlflow") -}}
{{- $inNamespace := printf "%s.%s" $service .Release.Namespace -}}
{{- $names := list $service $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.%s" $inNamespace .Values.clusterDomain) "$(POD_IP)" "localhost" "127.0.0.1" -}}
{{- $hosts := list -}}
{{- range concat $names .Values.allowedHosts -}}
{{- $hosts = concat $hosts (list . (printf "%s:*" .)) -}}
{{- end -}}
{{- join "," $hosts -}}
{{- end -}}
