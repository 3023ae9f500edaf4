{{/*
A Job of one container, and one before it where it is given. A Job cannot be changed, so its name ends with a hash of its spec: another spec is another Job.
  (dict "root" $ "component" "feast-apply" "before" "text" "container" "text" "refusal" 65 "serviceAccount" "" "volumes" "text" "also" "text")
values: where its pod may run, the chart's own where none are given. also: what the Job depends on that its spec does not show. refusal: the exit code of a container that would fail again however often it is tried. volumes: more than common.volumes.
*/}}
{{- define "common.job" -}}
{{- $spec := include "common.jobSpec" . -}}
{{- $name := printf "%s-%s" (include "common.fullname" .) (printf "%s%s" $spec (.also | default "") | sha256sum | trunc 8) -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "common.metadata" (dict "root" .root "component" .component "name" $name) | nindent 2 }}
spec:
  {{- $spec | nindent 2 }}
{{- end -}}

{{/*
A CronJob of the same, which runs at its times (UTC) and never twice at once.
  (dict "root" $ "component" "postgresql-backup" "schedule" "30 0 * * *"), and what common.job takes
*/}}
{{- define "common.cronJob" -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  {{- include "common.metadata" (dict "root" .root "component" .component) | nindent 2 }}
spec:
  schedule: {{ .schedule | quote }}
  {{- /* Known also to an API server on a machine without a list of time zones, which Etc/UTC is not. */}}
  timeZone: UTC
  concurrencyPolicy: Forbid
  # One that was missed is made up for, a day long at most.
  startingDeadlineSeconds: 86400
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      # One that hangs would keep all later ones from starting.
      activeDeadlineSeconds: 43200
      {{- include "common.jobSpec" . | nindent 6 }}
{{- end -}}

{{- define "common.jobSpec" -}}
backoffLimit: 10
{{- with .refusal }}
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {operator: In, values: [{{ . }}]}
{{- end }}
template:
  metadata:
    labels:
      {{- include "common.labels" . | nindent 6 }}
  spec:
    {{- /* Kubernetes wants Never beside a podFailurePolicy. */}}
    restartPolicy: {{ empty .refusal | ternary "OnFailure" "Never" }}
    {{- with .serviceAccount }}
    serviceAccountName: {{ . }}
    {{- end }}
    {{- include "common.podDefaults" (dict "root" .root "values" (.values | default .root.Values)) | nindent 4 }}
    {{- with .before }}
    initContainers:
      {{- . | nindent 6 }}
    {{- end }}
    containers:
      {{- .container | nindent 6 }}
    {{- include "common.volumes" . | nindent 4 }}
    {{- with .volumes }}
      {{- . | nindent 6 }}
    {{- end }}
{{- end -}}
