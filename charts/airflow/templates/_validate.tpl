{{/*
Ends the rendering where values contradict each other, with the remedy.
*/}}
{{- define "airflow.validate" -}}
{{- if ne .Values.executor "LocalExecutor" -}}
{{- fail (printf "executor %q is not supported yet: set executor to LocalExecutor" .Values.executor) -}}
{{- end -}}
{{- if .Values.scheduler.withApiServer -}}
{{- range $name, $component := dict "scheduler" .Values.scheduler "apiServer" .Values.apiServer -}}
{{- if gt (int $component.replicas) 1 -}}
{{- fail (printf "%s.replicas is %d and scheduler.withApiServer puts both into one pod: set scheduler.withApiServer to false or %s.replicas to 1" $name (int $component.replicas) $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.dags.persistence -}}
{{- if and .existingClaim (not .enabled) -}}
{{- fail (printf "dags.persistence.existingClaim is %q and dags.persistence.enabled is false: set enabled to true or existingClaim to \"\"" .existingClaim) -}}
{{- end -}}
{{- end -}}
{{- end -}}
