{{/*
The Deployment of an Airflow component up to its init containers, of which the first waits for the setup Job. More may
follow, then the containers and airflow.volumes.
  (dict "root" $ "component" "airflow-scheduler" "values" .Values.scheduler "grace" 120 "awaits" "airflow-settings"
        "startsPods" true "strategy" "Recreate"), without the last three one that waits for the schema, and rolls
*/}}
{{- define "airflow.deployment" -}}
{{- $awaits := .awaits | default "airflow" -}}
{{- include "common.deployment" (dict "root" .root "component" .component "values" .values "strategy" (.strategy | default "RollingUpdate") "history" 3) }}
      annotations:
        checksum/config: {{ include (print .root.Template.BasePath "/config/configmap.yaml") .root | sha256sum }}
        {{- if .startsPods }}
        {{- /* The kubelet takes a minute to renew a mounted ConfigMap: after an upgrade no task may use the former image. */}}
        checksum/pods: {{ include (print .root.Template.BasePath "/pods/configmap.yaml") .root | sha256sum }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "common.fullname" (dict "root" .root "component" "airflow") }}
      {{- include "common.podDefaults" (dict "root" .root "values" .root.Values) | nindent 6 }}
      terminationGracePeriodSeconds: {{ .grace }}
      initContainers:
        {{- include "common.releaseGate" (dict "root" .root "component" $awaits "image" "airflow" "revision" (include (printf "%s.revision" $awaits) .root) "database" "airflow") | nindent 8 }}
{{- end -}}

{{/*
The container of an Airflow component. Its ports, probes and the like follow.
  (dict "root" $ "name" "triggerer" "values" .Values.triggerer "token" true "dags" false "loop" true)
loop: whether its loop is probed, with airflow.livenessPort among its ports and airflow.loopProbes.
*/}}
{{- define "airflow.container" -}}
- name: {{ .name }}
  {{- include "common.containerImage" (dict "root" .root "image" "airflow") | nindent 2 }}
  args: [airflow, {{ .name }}]
  env:
    {{- include "airflow.env" . | nindent 4 }}
    {{- include "airflow.poolEnv" .values.databaseConnections | nindent 4 }}
    {{- if .loop }}
    - name: MAESTRO_LIVENESS_PORT
      value: {{ include "airflow.livenessPortNumber" . | quote }}
    {{- end }}
  resources:
    {{- toYaml .values.resources | nindent 4 }}
  {{- include "common.containerDefaults" (dict "root" .root "certificate" (printf "airflow-%s" .name)) | nindent 2 }}
    {{- include "airflow.volumeMounts" . | nindent 4 }}
{{- end -}}
