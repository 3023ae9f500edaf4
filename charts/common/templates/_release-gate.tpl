{{/*
An init container that waits until a migration Job has marked the revision in the database. The pod has a volume `tmp`.
Plain Jobs and waiting pods, because Helm runs a hook only after `--wait` has seen the pods ready, which wait for it.
  (dict "root" $ "component" "mlflow" "image" "mlflow" "revision" "1a2b3c4d" "database" "mlflow")
*/}}
{{- define "common.releaseGate" -}}
- name: release-gate
  image: {{ include "common.image" (dict "root" .root "name" .image) }}
  imagePullPolicy: {{ .root.Values.global.images.pullPolicy }}
  args: [release-gate, wait, {{ .component }}, {{ .revision | quote }}, --timeout, "600"]
  env:
    {{- include "common.postgresql.env" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 64Mi}
    limits: {memory: 128Mi}
  securityContext:
    {{- include "common.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
{{- end -}}
