{{- define "sensor-trainer.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "sensor-trainer") -}}
{{- end -}}

{{- define "sensor-trainer.labels" -}}
{{- include "common.labels" (dict "root" . "component" "sensor-trainer") -}}
{{- end -}}

{{- define "sensor-trainer.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "sensor-trainer") -}}
{{- end -}}
