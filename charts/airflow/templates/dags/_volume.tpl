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
An init container that fills the volume from the image's DAG files, once for each image: what was copied into the volume
since then outlives a restart. Files that an earlier image brought and this one lacks are removed.
*/}}
{{- define "airflow.dagsFromImage" -}}
- name: dags-from-image
  {{- include "common.containerImage" (dict "root" . "image" "airflow") | nindent 2 }}
  args:
    - sh
    - -euc
    - |
      if [ "$(cat /dags/.image 2>/dev/null)" = "$IMAGE" ]; then exit 0; fi
      cd /opt/maestro/dags
      find . -type f ! -path '*/__pycache__/*' | sort >/tmp/files
      cp -R . /dags/
      cd /dags
      if [ -f .files ]; then comm -23 .files /tmp/files | xargs -r -d '\n' rm -f; fi
      cp /tmp/files .files
      printf %s "$IMAGE" >.image
  env:
    - name: IMAGE
      value: {{ include "common.image" (dict "root" . "name" "airflow") }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  {{- include "common.containerDefaults" . | nindent 2 }}
    - name: dags
      mountPath: /dags
      {{- with include "airflow.dagsSubPath" . }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end -}}
