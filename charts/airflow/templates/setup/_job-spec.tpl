{{- define "airflow.setupJobSpec" -}}
backoffLimit: 10
template:
  metadata:
    labels:
      {{- include "airflow.labels" (dict "root" . "part" "setup") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    serviceAccountName: {{ include "airflow.name" (dict "root" .) }}
    {{- include "common.podDefaults" (dict "root" . "values" .Values) | nindent 4 }}
    containers:
      - name: setup
        image: {{ include "common.image" (dict "root" . "name" "airflow") }}
        imagePullPolicy: {{ .Values.global.images.pullPolicy }}
        args:
          - sh
          - -euc
          - |
            python -m mlops.airflow.administration.setup migrate /etc/maestro-setup/settings.yaml
            release-gate mark airflow {{ include "airflow.schemaRevision" . }}
            python -m mlops.airflow.administration.setup apply /etc/maestro-setup/settings.yaml
            release-gate mark airflow-settings {{ include "airflow.settingsRevision" . }}
        env:
          {{- include "airflow.env" . | nindent 10 }}
          {{- with include "airflow.settingsEnv" . }}
          {{- . | nindent 10 }}
          {{- end }}
          {{- include "airflow.secretEnv" (dict "root" . "name" "MAESTRO_ADMIN_PASSWORD" "existing" .Values.adminUser.existingSecret "key" "admin-password") | nindent 10 }}
        resources:
          {{- toYaml .Values.setup.resources | nindent 10 }}
        securityContext:
          {{- include "common.containerSecurityContext" (dict "root" .) | nindent 10 }}
        volumeMounts:
          {{- include "airflow.volumeMounts" (dict "root" .) | nindent 10 }}
          - name: settings
            mountPath: /etc/maestro-setup
            readOnly: true
    volumes:
      {{- include "airflow.volumes" (dict "root" .) | nindent 6 }}
      - name: settings
        secret:
          secretName: {{ include "airflow.name" (dict "root" . "part" "setup") }}
{{- end -}}
