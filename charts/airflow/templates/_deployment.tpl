{{/*
A container of an Airflow component.
  (dict "root" $ "name" "triggerer" "values" .Values.triggerer "token" true "dags" false "port" 0 "probes" "text")
*/}}
{{- define "airflow.container" -}}
- name: {{ .name }}
  image: {{ include "common.image" (dict "root" .root "name" "airflow") }}
  imagePullPolicy: {{ .root.Values.global.images.pullPolicy }}
  args: [airflow, {{ .name }}]
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  env:
    {{- include "airflow.env" .root | nindent 4 }}
  {{- with .port }}
  ports:
    - name: {{ .name }}
      containerPort: {{ .number }}
  {{- end }}
  {{- .probes | nindent 2 }}
  {{- with .preStop }}
  lifecycle:
    preStop:
      {{- . | nindent 6 }}
  {{- end }}
  resources:
    {{- toYaml .values.resources | nindent 4 }}
  securityContext:
    {{- include "common.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    {{- include "airflow.volumeMounts" . | nindent 4 }}
{{- end -}}

{{/*
The Deployment of an Airflow component.
  (dict "root" $ "part" "triggerer" "values" .Values.triggerer "containers" "text" "initContainers" "text"
        "waitsForSettings" false "startsPods" true "token" true "dags" false "grace" 60 "recreate" false)
*/}}
{{- define "airflow.deployment" -}}
{{- $wait := dict "root" .root "component" "airflow" "image" "airflow" "database" "airflow" "revision" (include "airflow.schemaRevision" .root) -}}
{{- if .waitsForSettings -}}
{{- $wait = merge (dict "component" "airflow-settings" "revision" (include "airflow.settingsRevision" .root)) $wait -}}
{{- end -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "airflow.name" . }}
  labels:
    {{- include "airflow.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  revisionHistoryLimit: 3
  strategy:
    {{- if .recreate }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
    {{- end }}
  selector:
    matchLabels:
      {{- include "airflow.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "airflow.labels" . | nindent 8 }}
      annotations:
        checksum/config: {{ include (print .root.Template.BasePath "/config/configmap.yaml") .root | sha256sum }}
        {{- if .startsPods }}
        checksum/pods: {{ include (print .root.Template.BasePath "/pods/configmap.yaml") .root | sha256sum }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "airflow.name" (dict "root" .root) }}
      {{- include "common.podDefaults" (dict "root" .root "values" .root.Values) | nindent 6 }}
      terminationGracePeriodSeconds: {{ .grace }}
      initContainers:
        {{- include "common.releaseGate" $wait | nindent 8 }}
        {{- if .dags }}
        {{- include "airflow.dagsFromImage" . | nindent 8 }}
        {{- end }}
        {{- with .initContainers }}
        {{- . | nindent 8 }}
        {{- end }}
      containers:
        {{- .containers | nindent 8 }}
      volumes:
        {{- include "airflow.volumes" . | nindent 8 }}
{{- end -}}
