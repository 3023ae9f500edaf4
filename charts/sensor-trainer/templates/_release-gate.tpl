{{- define "sensor-trainer.revision" -}}
{{- include "common.revision" (dict "root" . "image" "sensor-trainer" "database" "sensors") -}}
{{- end -}}

{{- define "sensor-trainer.releaseGate" -}}
{{- include "common.releaseGate" (dict "root" . "component" "sensor-trainer" "image" "sensor-trainer" "revision" (include "sensor-trainer.revision" .) "database" "sensors") -}}
{{- end -}}
