{{- define "postgresql.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "postgresql") -}}
{{- end -}}

{{- define "postgresql.labels" -}}
{{- include "common.labels" (dict "root" . "component" "postgresql") -}}
{{- end -}}

{{- define "postgresql.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "postgresql") -}}
{{- end -}}
