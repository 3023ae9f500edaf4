{{/*
The claim of the volume that holds the DAG files.
*/}}
{{- define "airflow.dagsClaim" -}}
{{- .Values.dags.persistence.existingClaim | default (include "airflow.name" (dict "root" . "part" "dags")) -}}
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
  (dict "root" $)
*/}}
{{- define "airflow.dagsFromImage" -}}
{{- $image := include "common.image" (dict "root" .root "name" "airflow") -}}
- name: dags-from-image
  image: {{ $image }}
  imagePullPolicy: {{ .root.Values.global.images.pullPolicy }}
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
      value: {{ $image }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  securityContext:
    {{- include "common.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    - name: dags
      mountPath: /dags
      {{- with include "airflow.dagsSubPath" .root }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end -}}
