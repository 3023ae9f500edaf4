{{/*
The volumes of an Airflow pod, beside `tmp`.
  (dict "root" $ "token" true "dags" true): with the service account's token, with the DAG files
*/}}
{{- define "airflow.volumes" -}}
- name: logs
  emptyDir: {}
- name: config
  configMap:
    name: {{ include "common.fullname" (dict "root" .root "component" "airflow-config") }}
- name: pods
  configMap:
    name: {{ include "common.fullname" (dict "root" .root "component" "airflow-pods") }}
{{- if .dags }}
{{- with include "airflow.dagsVolume" .root }}
{{ . }}
{{- end }}
{{- end }}
{{- if .token }}
{{ include "common.tokenVolume" .root }}
{{- end }}
{{- end -}}

{{/*
Where a container finds them.
*/}}
{{- define "airflow.volumeMounts" -}}
- name: logs
  mountPath: /opt/airflow/logs
- name: config
  mountPath: /etc/airflow
  readOnly: true
- name: pods
  mountPath: /etc/maestro
  readOnly: true
{{- if .dags }}
{{- with include "airflow.dagsMount" .root }}
{{ . }}
{{- end }}
{{- end }}
{{- if .token }}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- end -}}
