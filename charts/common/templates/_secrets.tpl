{{/*
A Secret of random texts, each of its length. It keeps what is there over upgrades, and outlives the release as the
volumes do that it opens and the people who were told. More data may follow.
  (dict "root" $ "component" "redis" "lengths" (dict "redis-password" 32))
*/}}
{{- define "common.randomSecret" -}}
{{- $there := (lookup "v1" "Secret" .root.Release.Namespace (include "common.fullname" .)).data | default dict -}}
apiVersion: v1
kind: Secret
metadata:
  {{- include "common.metadata" . | nindent 2 }}
  annotations:
    helm.sh/resource-policy: keep
type: Opaque
data:
  {{- range $key, $length := .lengths }}
  {{ $key }}: {{ get $there $key | default (randAlphaNum (int $length) | b64enc) }}
  {{- end }}
{{- end -}}
