{{- define "mlflow.revision" -}}
{{- include "common.revision" (dict "root" . "image" "mlflow" "database" "mlflow") -}}
{{- end -}}
