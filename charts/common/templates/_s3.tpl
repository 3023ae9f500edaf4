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
The Secret with the keys root-user and root-password: of MinIO's root, or of who may open all buckets of an external store.
  (dict "root" $)
*/}}
{{- define "common.s3.secretName" -}}
{{- $s3 := .root.Values.global.s3 -}}
{{- if and $s3.external.enabled (not $s3.existingSecret) -}}
{{- fail "an external object store needs its keys: create a Secret with the keys root-user (access key) and root-password (secret key) and set global.s3.existingSecret to its name, or one with the keys access-key and secret-key for each of global.s3.users" -}}
{{- end -}}
{{- $s3.existingSecret | default (include "common.fullname" (dict "root" .root "component" "minio")) -}}
{{- end -}}

{{/*
Where the keys of a user of the object store lie, as YAML: the Secret and the names of both keys in it. An external store
whose users are not given one by one has the keys of global.s3.existingSecret for all of them.
  (dict "root" $ "user" "tasks"), one of global.s3.users, or root
*/}}
{{- define "common.s3.keys" -}}
{{- $s3 := .root.Values.global.s3 -}}
{{- $own := (get $s3.users .user | default dict).existingSecret -}}
{{- if or (eq .user "root") (and $s3.external.enabled (not $own)) -}}
secret: {{ include "common.s3.secretName" . }}
accessKey: root-user
secretKey: root-password
{{- else -}}
secret: {{ $own | default (include "common.fullname" (dict "root" .root "component" (printf "minio-%s" .user))) }}
accessKey: access-key
secretKey: secret-key
{{- end -}}
{{- end -}}

{{/*
Entries of a container's environment that boto3 reads: the address, the region and the two keys of a user.
  (dict "root" $ "user" "mlflow")
*/}}
{{- define "common.s3.env" -}}
{{- $keys := include "common.s3.keys" . | fromYaml -}}
- name: AWS_ENDPOINT_URL_S3
  value: {{ include "common.s3.endpoint" . | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ .root.Values.global.s3.external.region | quote }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ $keys.secret }}
      key: {{ $keys.accessKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $keys.secret }}
      key: {{ $keys.secretKey }}
{{- if include "common.tls.speaks" (dict "root" .root "component" "minio") }}
- name: AWS_CA_BUNDLE
  value: {{ include "common.tls.ca" . }}
{{- end }}
{{- end -}}
