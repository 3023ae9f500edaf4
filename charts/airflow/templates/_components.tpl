{{/*
The Deployment of an Airflow component up to its init containers, of which the first waits for the setup Job. More may
follow, then the containers and airflow.volumes.
  (dict "root" $ "component" "airflow-scheduler" "values" .Values.scheduler "grace" 120 "awaits" "airflow-settings"
        "startsPods" true "strategy" "Recreate" "role" "airflow-worker" "reads" (list "redis/celery-password")
        "account" "airflow-scheduler"), without "awaits" and what follows one that waits for the schema, and rolls
values: beside replicas, where its pods run, if not where all of Airflow does.
*/}}
{{- define "airflow.deployment" -}}
{{- $awaits := .awaits | default "airflow" -}}
{{- include "common.deployment" (dict "root" .root "component" .component "role" .role "reads" .reads "values" .values "strategy" (.strategy | default "RollingUpdate") "history" 3 "surge" .surge) }}
      annotations:
        checksum/config: {{ include (print .root.Template.BasePath "/config/configmap.yaml") .root | sha256sum }}
        {{- if .startsPods }}
        {{- /* The kubelet takes a minute to renew a mounted ConfigMap: after an upgrade no task may use the former image. */}}
        checksum/pods: {{ include (print .root.Template.BasePath "/pods/configmap.yaml") .root | sha256sum }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "common.fullname" (dict "root" .root "component" (.account | default "airflow")) }}
      {{- include "common.podDefaults" (dict "root" .root "component" .component "values" (include "airflow.placement" . | fromYaml)) | nindent 6 }}
      terminationGracePeriodSeconds: {{ .grace }}
      initContainers:
        {{- include "common.releaseGate" (dict "root" .root "component" $awaits "image" "airflow" "revision" (include (printf "%s.revision" $awaits) .root) "database" "airflow") | nindent 8 }}
{{- end -}}

{{/*
Where the pods of a component run: what its values say, and of the rest those of all of Airflow.
  (dict "root" $ "values" .Values.scheduler)
*/}}
{{- define "airflow.placement" -}}
{{- $placement := dict -}}
{{- range list "priorityClassName" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" -}}
{{- $_ := set $placement . (get $.values . | default (get $.root.Values .)) -}}
{{- end -}}
{{- toYaml $placement -}}
{{- end -}}

{{/*
The container of an Airflow component. Its ports, probes and the like follow.
  (dict "root" $ "name" "triggerer" "args" (list "celery" "worker") "values" .Values.triggerer "token" true "dags" false "loop" true)
container: what it is called where that is not its name. args: the words after `airflow` where they are more than its name.
loop: whether its loop is probed, with airflow.livenessPort among its ports and airflow.loopProbes.
*/}}
{{- define "airflow.container" -}}
- name: {{ .container | default .name }}
  {{- include "common.containerImage" (dict "root" .root "image" "airflow") | nindent 2 }}
  args: {{ prepend (.args | default (list .name)) "airflow" | toJson }}
  env:
    {{- include "airflow.env" . | nindent 4 }}
    {{- with .values.databaseConnections }}
    {{- include "airflow.poolEnv" . | nindent 4 }}
    {{- end }}
    {{- if .loop }}
    - name: MAESTRO_LIVENESS_PORT
      value: {{ include "airflow.livenessPortNumber" . | quote }}
    {{- end }}
  resources:
    {{- toYaml .values.resources | nindent 4 }}
  {{- include "common.containerDefaults" (dict "root" .root "certificate" (printf "airflow-%s" .name)) | nindent 2 }}
    {{- include "airflow.volumeMounts" . | nindent 4 }}
{{- end -}}
