{{/*
One random value of a Secret, base64 encoded: the one that is there, so that an upgrade keeps it, or else a new one.
  (dict "root" $ "secret" "maestro-minio" "key" "root-password" "length" 32)
*/}}
{{- define "common.randomSecret" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- dig "data" .key "" $secret | default (randAlphaNum (int .length) | b64enc) -}}
{{- end -}}
