{{/*
The password, which redis-start and redis-cli both read.
*/}}
{{- define "redis.env" -}}
- name: REDISCLI_AUTH
  valueFrom:
    secretKeyRef:
      name: {{ include "common.redis.secretName" (dict "root" .) }}
      key: redis-password
{{- end -}}
