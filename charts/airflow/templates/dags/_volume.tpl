{{/*
The claim of the volume that holds the DAG files.
*/}}
{{- define "airflow.dagsClaim" -}}
{{- .Values.dags.persistence.existingClaim | default (include "common.fullname" (dict "root" . "component" "airflow-dags")) -}}
{{- end -}}

{{- define "airflow.dagsSubPath" -}}
{{- with .Values.dags.persistence -}}
{{- if and .enabled .subPath -}}
subPath: {{ .subPath }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The volume `dags` of who reads DAG files: that of their versions, or where the clone of a repository lies. Nothing where they
come with the image.
*/}}
{{- define "airflow.dagsVolume" -}}
{{- if .Values.dags.persistence.enabled -}}
- name: dags
  persistentVolumeClaim:
    claimName: {{ include "airflow.dagsClaim" . }}
    readOnly: true
{{- else if .Values.dags.gitSync.enabled -}}
- name: dags
  emptyDir: {}
{{- end -}}
{{- end -}}

{{/*
Where a container finds them. A clone is Airflow's own, made by the process that reads it.
*/}}
{{- define "airflow.dagsMount" -}}
{{- if or .Values.dags.persistence.enabled .Values.dags.gitSync.enabled -}}
- name: dags
  mountPath: /opt/maestro/dags
  {{- if .Values.dags.persistence.enabled }}
  readOnly: true
  {{- with include "airflow.dagsSubPath" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The same in CEL, of a volume v, after what else it may be. */}}
{{- define "airflow.dagsReadOnly" -}}
{{- if .Values.dags.persistence.enabled }} || (has(v.persistentVolumeClaim) && v.persistentVolumeClaim.claimName == '{{ include "airflow.dagsClaim" . }}' && has(v.persistentVolumeClaim.readOnly) && v.persistentVolumeClaim.readOnly)
{{- end -}}
{{- end -}}
