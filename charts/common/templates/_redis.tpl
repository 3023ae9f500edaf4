{{/*
The host of Redis, the platform's own or an external one.
  (dict "root" $)
*/}}
{{- define "common.redis.host" -}}
{{- $external := .root.Values.global.redis.external -}}
{{- if $external.enabled -}}
{{- required "global.redis.external.enabled is true and its host is empty: set global.redis.external.host" $external.host -}}
{{- else -}}
{{- include "common.serviceHost" (dict "root" .root "service" "redis") -}}
{{- end -}}
{{- end -}}

{{/*
The port of Redis.
  (dict "root" $)
*/}}
{{- define "common.redis.port" -}}
{{- $external := .root.Values.global.redis.external -}}
{{- ternary $external.port .root.Values.global.services.redis.port $external.enabled -}}
{{- end -}}

{{/*
The Secret with the key <user>-password for each of Redis' users, that of `default` called redis-password.
  (dict "root" $)
*/}}
{{- define "common.redis.secretName" -}}
{{- $redis := .root.Values.global.redis -}}
{{- if and $redis.external.enabled (not $redis.existingSecret) -}}
{{- $keys := ternary "keys features-password, queue-password, celery-password and monitoring-password" "key redis-password" $redis.external.users -}}
{{- fail (printf "an external Redis needs its passwords: create a Secret with the %s and set global.redis.existingSecret to its name" $keys) -}}
{{- end -}}
{{- $redis.existingSecret | default (include "common.fullname" (dict "root" .root "component" "redis")) -}}
{{- end -}}

{{/*
As whom a user of ours comes to Redis: as itself, but to an external one that knows only its default user.
  (dict "root" $ "user" "features")
*/}}
{{- define "common.redis.username" -}}
{{- $external := .root.Values.global.redis.external -}}
{{- ternary .user "default" (or (not $external.enabled) $external.users) -}}
{{- end -}}

{{/*
The key of that user's password in the Secret.
  (dict "root" $ "user" "features")
*/}}
{{- define "common.redis.passwordKey" -}}
{{- $username := include "common.redis.username" . -}}
{{- ternary "redis-password" (printf "%s-password" .user) (eq $username "default") -}}
{{- end -}}

{{/*
Entries of the environment of a container that comes to Redis as one of its users, `features`, `queue` or `celery`; its keys are the
fields of mlops.config.RedisSettings.
  (dict "root" $ "user" "features")
*/}}
{{- define "common.redis.env" -}}
- name: MAESTRO_REDIS_HOST
  value: {{ include "common.redis.host" . | quote }}
- name: MAESTRO_REDIS_PORT
  value: {{ include "common.redis.port" . | quote }}
- name: MAESTRO_REDIS_USERNAME
  value: {{ include "common.redis.username" . }}
- name: MAESTRO_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.redis.secretName" . }}
      key: {{ include "common.redis.passwordKey" . }}
{{- with include "common.redis.ca" . }}
- name: MAESTRO_REDIS_CA
  value: {{ . }}
{{- end }}
{{- end -}}

{{/*
The file with which clients verify Redis, or nothing where it speaks no TLS. One elsewhere is verified by the authorities that
the system knows.
  (dict "root" $)
*/}}
{{- define "common.redis.ca" -}}
{{- $external := .root.Values.global.redis.external -}}
{{- if include "common.tls.speaks" (dict "root" .root "component" "redis") -}}
{{- include "common.tls.ca" . -}}
{{- else if and $external.enabled $external.tls -}}
/etc/ssl/certs/ca-certificates.crt
{{- end -}}
{{- end -}}
