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

{{/*
Ready is a server that answers PONG, for which -e makes another answer a failure: one that is still reading its file
answers LOADING, one that is in a long script BUSY. Alive is one that answers at all.
*/}}
{{- define "redis.probes" -}}
{{- $ready := dict "command" (list "redis-cli" "-e" "ping") -}}
startupProbe:
  exec: {{ toJson $ready }}
  periodSeconds: 2
  timeoutSeconds: 5
  # An hour: a server that was killed reads its file first, and would have to begin anew if it were killed again.
  failureThreshold: 1800
readinessProbe:
  exec: {{ toJson $ready }}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  exec: {{ dict "command" (list "redis-cli" "ping") | toJson }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
