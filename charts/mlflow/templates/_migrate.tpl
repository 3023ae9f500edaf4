{{/*
What the migration depends on. The Job marks it when it is done, and the server's pods wait for it.
*/}}
{{- define "mlflow.revision" -}}
{{- $image := include "common.image" (dict "root" . "name" "mlflow") -}}
{{- $database := include "common.postgresql.url" (dict "root" . "database" "mlflow") -}}
{{- printf "%s %s" $image $database | sha256sum | trunc 8 -}}
{{- end -}}

{{/*
The spec of the Job that brings the tables up to date.
*/}}
{{- define "mlflow.migrateSpec" -}}
backoffLimit: 10
template:
  metadata:
    labels:
      {{- include "common.labels" (dict "root" . "component" "mlflow-migrate") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    {{- include "common.podDefaults" (dict "root" . "values" .Values) | nindent 4 }}
    containers:
      - name: migrate
        image: {{ include "common.image" (dict "root" . "name" "mlflow") }}
        imagePullPolicy: {{ .Values.global.images.pullPolicy }}
        args:
          {{- list "python" "-c" (.Files.Get "files/migrate.py") (include "mlflow.revision" .) | toYaml | nindent 10 }}
        env:
          {{- include "mlflow.databaseEnv" . | nindent 10 }}
        resources:
          requests: {cpu: 30m, memory: 256Mi}
          limits: {memory: 1Gi}
        securityContext:
          {{- include "common.containerSecurityContext" (dict "root" .) | nindent 10 }}
        volumeMounts:
          - name: tmp
            mountPath: /tmp
    volumes:
      - name: tmp
        emptyDir: {}
{{- end -}}
