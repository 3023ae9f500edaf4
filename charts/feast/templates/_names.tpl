{{- define "feast.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "feast") -}}
{{- end -}}

{{- define "feast.labels" -}}
{{- include "common.labels" (dict "root" . "component" "feast") -}}
{{- end -}}

{{- define "feast.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "feast") -}}
{{- end -}}
