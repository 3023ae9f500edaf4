{{/*
The pod that every task pod starts from. The operator adds name, command, size, image, and the environment that the
command needs.
*/}}
{{- define "airflow.podTemplate" -}}
apiVersion: v1
kind: Pod
metadata:
  labels:
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/part-of: maestro
    app.kubernetes.io/component: task
    app: task
    component: task
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "common.fullname" (dict "root" . "component" "task") }}
  {{- include "common.podDefaults" (dict "root" . "values" .Values.taskPods) | nindent 2 }}
  containers:
    - name: base
      # What the command in `args` writes goes into its task's log, where secrets are `***`.
      command: [python, -m, mlops.masked]
      imagePullPolicy: {{ .Values.global.images.pullPolicy }}
      terminationMessagePath: /dev/termination-log
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        - name: HOME
          value: /tmp
        - name: MAESTRO_LOG_FORMAT
          value: {{ .Values.logs.format }}
        {{- with include "common.tls.env" (dict "root" .) }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .Values.taskPods.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- include "common.containerDefaults" . | nindent 6 }}
  {{- include "common.volumes" . | nindent 2 }}
{{- end -}}
