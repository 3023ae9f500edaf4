{{/* What both containers of the Job have: MinIO's root user, whom nothing else is told of. */}}
{{- define "minio.rootContainer" -}}
{{- include "common.containerImage" (dict "root" . "image" "task") }}
env:
  {{- include "common.env" (dict "root" . "user" "root" "needs" (list "s3")) | trim | nindent 2 }}
  {{- with include "common.tls.env" (dict "root" .) }}
  {{- . | nindent 2 }}
  {{- end }}
resources:
  requests: {cpu: 30m, memory: 128Mi}
  limits: {memory: 512Mi}
{{ include "common.containerDefaults" . }}
{{- end -}}

{{- define "minio.buckets" -}}
- name: buckets
  args:
    - python
    - -m
    - mlops
    - ingestion
    - buckets
    - --wait=300
    {{- range values .Values.global.buckets | sortAlpha | uniq }}
    - --name
    - {{ . }}
    {{- end }}
    {{- range $bucket, $days := .Values.lifecycle.expire }}
    - --expire={{ get $.Values.global.buckets $bucket }}:{{ $days }}
    {{- end }}
    {{- range $bucket, $days := .Values.lifecycle.versions }}
    - --versions={{ get $.Values.global.buckets $bucket }}:{{ $days }}
    {{- end }}
  {{- include "minio.rootContainer" . | nindent 2 }}
{{- end -}}

{{- define "minio.users" -}}
- name: users
  args:
    - python
    - -m
    - mlops
    - ingestion
    - users
    - --wait=300
    - --folder=/etc/maestro/users
    {{- range include "minio.grants" . | fromYamlArray }}
    - --grant={{ . }}
    {{- end }}
  {{- include "minio.rootContainer" . | nindent 2 }}
    - name: users
      mountPath: /etc/maestro/users
      readOnly: true
{{- end -}}
