{{/*
The tag of an image: its own from global.images.tags, or the one of all.
  (dict "root" $ "name" "mlflow")
*/}}
{{- define "common.imageTag" -}}
{{- $images := .root.Values.global.images -}}
{{- get $images.tags .name | default $images.tag | required (printf "image %q has no tag: set global.images.tag or global.images.tags.%s" .name .name) -}}
{{- end -}}

{{/*
The reference of an image.
  (dict "root" $ "name" "mlflow")
*/}}
{{- define "common.image" -}}
{{ .root.Values.global.images.registry | trimSuffix "/" }}/{{ .name }}:{{ include "common.imageTag" . }}
{{- end -}}

{{/*
The field imagePullSecrets, or nothing.
  (dict "root" $)
*/}}
{{- define "common.imagePullSecrets" -}}
{{- with .root.Values.global.images.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}
