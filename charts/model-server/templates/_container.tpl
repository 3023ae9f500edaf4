{{/*
MLflow's address, and the fields of mlops.config.ServedModelSettings.
*/}}
{{- define "model-server.env" -}}
- name: HOME
  value: /tmp
{{ include "common.env.mlflow" (dict "root" .) }}
- name: MODEL_NAME
  value: {{ .Values.modelName | quote }}
# Empty until a version is deployed; then also which model it is of, as that may be another by now.
- name: MODEL_VERSION
  valueFrom:
    fieldRef:
      fieldPath: metadata.annotations['maestro/model-version']
- name: MODEL_VERSION_OF
  valueFrom:
    fieldRef:
      fieldPath: metadata.annotations['maestro/model-name']
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
{{- end -}}

{{- define "model-server.probes" -}}
startupProbe:
  httpGet: {path: /ping, port: http}
  periodSeconds: 2
  timeoutSeconds: 5
  # Six minutes: the server waits five for MLflow, then loads the model.
  failureThreshold: 180
readinessProbe:
  httpGet: {path: /ping, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /ping, port: http}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
