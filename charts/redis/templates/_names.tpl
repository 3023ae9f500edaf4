{{- define "redis.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "redis") -}}
{{- end -}}

{{- define "redis.labels" -}}
{{- include "common.labels" (dict "root" . "component" "redis") -}}
{{- end -}}

{{- define "redis.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "redis") -}}
{{- end -}}
