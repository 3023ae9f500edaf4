{{/*
A pod that `helm test` runs: one Python script, which fails with the reason. Kubernetes replaces $(NAME) in it.
  (dict "root" $ "component" "mlflow" "image" "mlflow" "script" "the text" "env" "entries as text, or nothing")
*/}}
{{- define "common.testPod" -}}
apiVersion: v1
kind: Pod
metadata:
  {{- include "common.testMetadata" . | nindent 2 }}
spec:
  restartPolicy: Never
  {{- include "common.podDefaults" . | nindent 2 }}
  containers:
    - name: test
      {{- include "common.containerImage" . | nindent 6 }}
      args:
        {{- list "python" "-c" .script | toYaml | nindent 8 }}
      env:
        - name: HOME
          value: /tmp
        {{- with include "common.tls.env" (dict "root" .root) }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
      resources:
        requests: {cpu: 30m, memory: 128Mi}
        limits: {memory: 512Mi}
      {{- include "common.containerDefaults" . | nindent 6 }}
  {{- include "common.volumes" . | nindent 2 }}
{{- end -}}

{{/*
The metadata of a pod that `helm test` runs, then removes.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.testMetadata" -}}
{{ include "common.metadata" (dict "root" .root "component" (printf "%s-test" .component) "name" (printf "%s-test" (include "common.fullname" .))) }}
annotations:
  helm.sh/hook: test
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
