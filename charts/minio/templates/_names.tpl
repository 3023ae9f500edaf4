{{- define "minio.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "minio") -}}
{{- end -}}

{{- define "minio.labels" -}}
{{- include "common.labels" (dict "root" . "component" "minio") -}}
{{- end -}}

{{- define "minio.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "minio") -}}
{{- end -}}
