{{/*
What the migration depends on. The Job marks it when it is done, and the pods wait for it.
*/}}
{{- define "sensor-trainer.revision" -}}
{{- $image := include "common.image" (dict "root" . "name" "sensor-trainer") -}}
{{- $database := include "common.postgresql.url" (dict "root" . "database" "sensors") -}}
{{- printf "%s %s" $image $database | sha256sum | trunc 8 -}}
{{- end -}}

{{- define "sensor-trainer.releaseGate" -}}
{{- include "common.releaseGate" (dict "root" . "component" "sensor-trainer" "image" "sensor-trainer" "revision" (include "sensor-trainer.revision" .) "database" "sensors") -}}
{{- end -}}

{{/*
The spec of the Job that brings the tables up to date.
*/}}
{{- define "sensor-trainer.migrateSpec" -}}
{{- $script := printf "python -m mlops sensor-trainer migrate\nrelease-gate mark sensor-trainer %s\n" (include "sensor-trainer.revision" .) -}}
{{- $container := dict "root" . "name" "migrate" "args" (list "sh" "-euc" $script) "env" (include "sensor-trainer.databaseEnv" .) "resources" .Values.migrate.resources -}}
backoffLimit: 10
template:
  metadata:
    labels:
      {{- include "common.labels" (dict "root" . "component" "sensor-trainer-migrate") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    {{- include "common.podDefaults" (dict "root" . "values" .Values) | nindent 4 }}
    containers:
      {{- include "sensor-trainer.container" $container | nindent 6 }}
    volumes:
      - name: tmp
        emptyDir: {}
{{- end -}}
