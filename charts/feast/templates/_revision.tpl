{{/*
What the registry's content depends on: the definitions, which are in the image, the registry's database, and the address
of the offline store, which the registry holds.
*/}}
{{- define "feast.revision" -}}
{{- $store := printf "%s/%s" (include "common.s3.endpoint" (dict "root" .)) .Values.global.buckets.feast -}}
{{- include "common.revision" (dict "root" . "image" "feast" "database" "feast" "also" $store) -}}
{{- end -}}
