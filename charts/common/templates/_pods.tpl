{{/*
The securityContext of a pod. The images run as 10001. A volume's files are handed to the group once: done at each start
it would take minutes on a large volume, and would open PostgreSQL's data to the group, which PostgreSQL refuses.
  (dict "root" $)
*/}}
{{- define "common.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
The securityContext of a container: with the pod's, what Pod Security "restricted" asks for, and a read-only root.
  (dict "root" $)
*/}}
{{- define "common.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
Where a pod may be placed: those of the fields that the values of a workload set.
  (dict "values" .Values)
*/}}
{{- define "common.scheduling" -}}
{{- $fields := pick .values "priorityClassName" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" -}}
{{- range $field, $value := $fields }}
{{- with $value }}
{{ toYaml (dict $field .) }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What every pod of ours without a service-account token has: rights, placement, where images are pulled from. No service
links: a Service called "mlflow" would set MLFLOW_PORT, which MLflow takes for its own.
  (dict "root" $ "values" .Values), no values for a pod that may run anywhere
*/}}
{{- define "common.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "common.imagePullSecrets" . }}
{{ . }}
{{- end }}
securityContext:
  {{- include "common.podSecurityContext" . | nindent 2 }}
{{- include "common.scheduling" (dict "values" (.values | default dict)) }}
{{- end -}}

{{/*
A pod that `helm test` runs: one Python script, which fails with the reason. Kubernetes replaces $(NAME) in it.
  (dict "root" $ "component" "mlflow" "image" "mlflow" "script" "the text" "env" "entries as text, or nothing")
*/}}
{{- define "common.testPod" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "common.fullname" . }}-test
  labels:
    {{- include "common.labels" (dict "root" .root "component" (printf "%s-test" .component)) | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  {{- include "common.podDefaults" . | nindent 2 }}
  containers:
    - name: test
      image: {{ include "common.image" (dict "root" .root "name" .image) }}
      imagePullPolicy: {{ .root.Values.global.images.pullPolicy }}
      args:
        {{- list "python" "-c" .script | toYaml | nindent 8 }}
      env:
        - name: HOME
          value: /tmp
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
      resources:
        requests: {cpu: 30m, memory: 128Mi}
        limits: {memory: 512Mi}
      securityContext:
        {{- include "common.containerSecurityContext" . | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: tmp
      emptyDir: {}
{{- end -}}
