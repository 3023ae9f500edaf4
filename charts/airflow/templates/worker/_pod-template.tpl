{{/*
The pod that KubernetesExecutor makes for each task (pod_template_file): it adds name, labels and what is to be run. It opens no
database: the task asks the api-server, by a token that came with it.
*/}}
{{- define "airflow.workerTemplate" -}}
{{- $worker := dict "root" . "component" "airflow-worker" "values" .Values.workers -}}
apiVersion: v1
kind: Pod
metadata:
  name: worker
  labels:
    {{- include "common.labels" $worker | nindent 4 }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "common.fullname" (dict "root" . "component" "airflow") }}
  {{- include "common.podDefaults" (dict "root" . "values" (include "airflow.placement" $worker | fromYaml)) | nindent 2 }}
  terminationGracePeriodSeconds: {{ .Values.workers.terminationGracePeriodSeconds }}
  containers:
    {{- include "airflow.container" (dict "root" . "name" "worker" "container" "base" "values" .Values.workers "token" true "dags" true) | nindent 4 }}
  {{- include "common.volumes" . | nindent 2 }}
    {{- include "airflow.volumes" (dict "root" . "token" true "dags" true) | nindent 4 }}
{{- end -}}
