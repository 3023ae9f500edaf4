{{/*
The name of an object of this chart: <release>-airflow, or <release>-airflow-<part>.
  (dict "root" $ "part" "scheduler"), no part for what all components share
*/}}
{{- define "airflow.name" -}}
{{- include "common.fullname" (dict "root" .root "component" (include "airflow.component" .)) -}}
{{- end -}}

{{- define "airflow.component" -}}
airflow{{ with .part }}-{{ . }}{{ end }}
{{- end -}}

{{- define "airflow.labels" -}}
{{- include "common.labels" (dict "root" .root "component" (include "airflow.component" .)) -}}
{{- end -}}

{{- define "airflow.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" .root "component" (include "airflow.component" .)) -}}
{{- end -}}

{{/*
The service account of a task pod, which has no rights.
*/}}
{{- define "airflow.taskServiceAccount" -}}
{{- include "common.fullname" (dict "root" . "component" "task") -}}
{{- end -}}
