{{- define "mlflow.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "mlflow") -}}
{{- end -}}

{{- define "mlflow.labels" -}}
{{- include "common.labels" (dict "root" . "component" "mlflow") -}}
{{- end -}}

{{- define "mlflow.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "mlflow") -}}
{{- end -}}
