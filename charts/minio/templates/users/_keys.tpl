{{/* The volume `users`: a folder a user, with its keys. */}}
{{- define "minio.usersVolume" -}}
- name: users
  projected:
    sources:
      {{- range $user, $_ := .Values.global.s3.users }}
      {{- $keys := include "common.s3.keys" (dict "root" $ "user" $user) | fromYaml }}
      - secret:
          name: {{ $keys.secret }}
          items:
            - key: {{ $keys.accessKey }}
              path: {{ $user }}/access-key
            - key: {{ $keys.secretKey }}
              path: {{ $user }}/secret-key
      {{- end }}
{{- end -}}

{{/* What these Secrets hold, so that keys that changed are set by the next upgrade. */}}
{{- define "minio.usersKeys" -}}
{{- range $user, $_ := .Values.global.s3.users }}
{{- $keys := include "common.s3.keys" (dict "root" $ "user" $user) | fromYaml }}
{{- (lookup "v1" "Secret" $.Release.Namespace $keys.secret).data | default dict | toJson }}
{{- end }}
{{- end -}}
