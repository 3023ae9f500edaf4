{{/*
What the setup Job marks and pods wait for, each called like the mark. A new image may bring a new schema: all pods wait
for it. New settings need no restart: one pod waits for them, so that `helm upgrade --wait` ends when they hold. They are
applied anew on each upgrade, also when they are the same: people may have changed them in the UI, and Secrets may hold
something else.
*/}}
{{- define "airflow.revision" -}}
{{- include "common.image" (dict "root" . "name" "airflow") | sha256sum | trunc 8 -}}
{{- end -}}

{{- define "airflow-settings.revision" -}}
{{- printf "%d %s %s" .Release.Revision (include "common.image" (dict "root" . "name" "airflow")) (include "airflow.settings" .) | sha256sum | trunc 8 -}}
{{- end -}}
