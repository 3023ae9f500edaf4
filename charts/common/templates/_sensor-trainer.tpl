{{/*
The Secret with the key token, by which the sensor trainer knows who may ask.
  (dict "root" $)
*/}}
{{- define "common.sensorTrainer.secretName" -}}
{{- .root.Values.global.sensorTrainer.existingSecret | default (include "common.fullname" (dict "root" .root "component" "sensor-trainer")) -}}
{{- end -}}
