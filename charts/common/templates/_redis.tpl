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
The Secret with the key redis-password.
  (dict "root" $)
*/}}
{{- define "common.redis.secretName" -}}
{{- $redis := .root.Values.global.redis -}}
{{- if and $redis.external.enabled (not $redis.existingSecret) -}}
{{- fail "an external Redis needs its password: create a Secret with the key redis-password and set global.redis.existingSecret to its name" -}}
{{- end -}}
{{- $redis.existingSecret | default (include "common.fullname" (dict "root" .root "component" "redis")) -}}
{{- end -}}
