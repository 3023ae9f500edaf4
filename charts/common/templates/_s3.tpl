{{/*
The address of the object store, MinIO or an external one; without an address of its own an external one is AWS.
  (dict "root" $)
*/}}
{{- define "common.s3.endpoint" -}}
{{- $external := .root.Values.global.s3.external -}}
{{- if $external.enabled -}}
{{- $external.endpoint | default (printf "https://s3.%s.amazonaws.com" $external.region) -}}
{{- else -}}
{{- include "common.serviceUrl" (dict "root" .root "service" "minio") -}}
{{- end -}}
{{- end -}}

{{/*
The Secret with the keys root-user and root-password: the access key and the secret key of the object store.
  (dict "root" $)
*/}}
{{- define "common.s3.secretName" -}}
{{- $s3 := .root.Values.global.s3 -}}
{{- if and $s3.external.enabled (not $s3.existingSecret) -}}
{{- fail "an external object store needs its keys: create a Secret with the keys root-user (access key) and root-password (secret key) and set global.s3.existingSecret to its name" -}}
{{- end -}}
{{- $s3.existingSecret | default (include "common.fullname" (dict "root" .root "component" "minio")) -}}
{{- end -}}

{{/*
Entries of a container's environment that boto3 reads: the address, the region and the two keys.
  (dict "root" $)
*/}}
{{- define "common.s3.env" -}}
- name: AWS_ENDPOINT_URL_S3
  value: {{ include "common.s3.endpoint" . | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ .root.Values.global.s3.external.region | quote }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ include "common.s3.secretName" . }}
      key: root-user
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "common.s3.secretName" . }}
      key: root-password
{{- end -}}
