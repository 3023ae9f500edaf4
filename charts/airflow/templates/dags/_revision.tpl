{{/*
What the Job airflow-dags marks when the volume has the files of the image: which image, and which volume.
*/}}
{{- define "airflow-dags.revision" -}}
{{- list (include "common.image" (dict "root" . "name" "airflow")) (include "airflow.dagsClaim" .) (include "airflow.dagsSubPath" .) | join " " | sha256sum | trunc 8 -}}
{{- end -}}

{{/*
An init container that waits for that, where there is such a volume.
*/}}
{{- define "airflow.dagsGate" -}}
{{- if .Values.dags.persistence.enabled -}}
{{- include "common.releaseGate" (dict "root" . "name" "dags-gate" "component" "airflow-dags" "image" "airflow" "revision" (include "airflow-dags.revision" .) "database" "airflow") -}}
{{- end -}}
{{- end -}}
