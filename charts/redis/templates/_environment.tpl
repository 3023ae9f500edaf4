{{/*
The passwords of all users, for redis-start. Of them redis-cli reads that of `default`.
*/}}
{{- define "redis.env" -}}
{{- range $name, $key := dict "REDISCLI_AUTH" "redis-password" "FEATURES_PASSWORD" "features-password" "QUEUE_PASSWORD" "queue-password" "CELERY_PASSWORD" "celery-password" "MONITORING_PASSWORD" "monitoring-password" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "common.redis.secretName" (dict "root" $) }}
      key: {{ $key }}
{{- end }}
{{- end -}}
