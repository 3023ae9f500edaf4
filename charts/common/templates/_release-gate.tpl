{{/*
What the work of a Job on a database depends on: the image, the database's address, and what else there is. The Job marks
it when it is done.
  (dict "root" $ "image" "feast" "database" "feast" "also" "text, or nothing")
*/}}
{{- define "common.revision" -}}
{{- $image := include "common.image" (dict "root" .root "name" .image) -}}
{{- $database := include "common.postgresql.url" (dict "root" .root "database" .database) -}}
{{- list $image $database .also | compact | join " " | sha256sum | trunc 8 -}}
{{- end -}}

{{/*
An init container that waits until a Job has marked the revision in the database. Its pod has common.volumes.
Plain Jobs and waiting pods, because Helm runs a hook only after `--wait` has seen the pods ready, which wait for it.
  (dict "root" $ "component" "mlflow" "image" "mlflow" "revision" "1a2b3c4d" "database" "mlflow" "name" "release-gate")
name: of the container, where it is the second one of its pod.
*/}}
{{- define "common.releaseGate" -}}
- name: {{ .name | default "release-gate" }}
  {{- include "common.containerImage" . | nindent 2 }}
  args: [release-gate, wait, {{ .component }}, {{ .revision | quote }}, --timeout, "600"]
  env:
    {{- include "common.postgresql.env" (dict "root" .root "database" .database "pooled" true) | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 64Mi}
    limits: {memory: 128Mi}
  {{- include "common.containerDefaults" . | nindent 2 }}
{{- end -}}
