{{/*
The probes of a component whose loop is looked at (mlops/airflow/internals/liveness.py): no program starts,
and no database is asked. Starting takes 10 to 60 s of CPU, and has twenty minutes. After that a loop that has not gone
round for ten minutes hangs; one that merely waits for a processor goes round.
*/}}
{{- define "airflow.loopProbes" -}}
startupProbe:
  httpGet: {path: /, port: liveness}
  periodSeconds: 5
  timeoutSeconds: 20
  failureThreshold: 240
livenessProbe:
  httpGet: {path: /, port: liveness}
  periodSeconds: 30
  timeoutSeconds: 30
  failureThreshold: 10
{{- end -}}

{{- define "airflow.livenessPort" -}}
- name: liveness
  containerPort: {{ include "airflow.livenessPortNumber" . }}
{{- end -}}

{{- define "airflow.livenessPortNumber" -}}
8780
{{- end -}}
